"""`report.html`: one page that works offline."""
