"""What goes first inside a module, and how the rest makes up for it: calibration, importance, weight bank, surgery."""
