"""Generated text side by side; what differs from the dense model's is marked."""

from secateur.report.escaping import in_html
from secateur.report.figures.picture import TITLES
from secateur.report.page.elements import nothing
from secateur.report.record import Sample


def samples_html(samples: tuple[Sample, ...]) -> str:
    """Write every prompt with what each model makes of it."""
    if not samples:
        return nothing("This run has generated no text yet, or was made by a version that did not.")
    return f'<div class="samples">{"".join(_sample(sample) for sample in samples)}</div>'


def _sample(sample: Sample) -> str:
    dense = sample.continuations.get("dense")
    answers = "".join(
        f'<div class="answer"><h4>{in_html(TITLES.get(name, name))}</h4><p>{_text(text, dense)}</p></div>'
        for name, text in sample.continuations.items()
    )
    return (
        f'<div class="card sample"><p class="prompt">{in_html(sample.prompt)} …</p><div '
        f'class="answers">{answers}</div></div>'
    )


def _text(text: str, dense: str | None) -> str:
    """Write a continuation, marked from the first word that the dense model does not say."""
    if not text:
        return "<em>ends here</em>"
    alike = len(text) if dense is None else _alike(text, dense)
    rest = f"<mark>{in_html(text[alike:])}</mark>" if alike < len(text) else ""
    return in_html(text[:alike]) + rest


def _alike(text: str, dense: str) -> int:
    """Count the characters before the first word that differs."""
    if text == dense:
        return len(text)
    same = next(
        (place for place, pair in enumerate(zip(text, dense, strict=False)) if pair[0] != pair[1]),
        min(len(text), len(dense)),
    )
    if same == len(text):
        return same
    return text.rfind(" ", 0, same + 1) + 1
