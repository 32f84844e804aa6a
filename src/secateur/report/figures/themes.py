"""Colours of the page and its figures, light and dark, after Okabe and Ito's palette.

Where one of their colours is too pale for a white page, or too dark for a dark one, its shade is changed until it
stands out by 3 to 1 (WCAG 2.2, 1.4.11), which a test holds.
"""

Theme = dict[str, str | list[list[float | str]]]

LIGHT: Theme = {
    "card": "#ffffff",
    "ink": "#1b1f24",
    "grid": "#e8eaed",
    "line": "#c4cad1",
    "blue": "#0072b2",
    "orange": "#c27a00",
    "green": "#008f68",
    "vermillion": "#d55e00",
    "purple": "#b85c92",
    "sky": "#2a94cf",
    "grey": "#7b838d",
    "kept": [[0, "#eef1f4"], [0.5, "#7fb2d6"], [1, "#0b4f7d"]],
    "harm": [[0, "#f5f1ea"], [0.5, "#e39a52"], [1, "#923b00"]],
}
DARK: Theme = {
    "card": "#1a1f26",
    "ink": "#e8eaed",
    "grid": "#2b323b",
    "line": "#48525e",
    "blue": "#56b4e9",
    "orange": "#e69f00",
    "green": "#2fc49a",
    "vermillion": "#f27a3a",
    "purple": "#e09cc4",
    "sky": "#8fb8d6",
    "grey": "#8b949e",
    "kept": [[0, "#252c35"], [0.5, "#2d79ad"], [1, "#a9dbfb"]],
    "harm": [[0, "#2a2622"], [0.5, "#b3611b"], [1, "#ffc58c"]],
}
THEMES = {"light": LIGHT, "dark": DARK}
