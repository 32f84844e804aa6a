"""What mkdocs makes of the pages: what would go stale if it were written by hand is made when the site is built.

In a page, on a line of its own:

    <!-- options: search -->                     a table of the section's settings
    <!-- options: pruning importance ridge -->   of some of them
    <!-- readme: How it works -->                that section of the README
    <!-- include: CHANGELOG.md -->               a file of the repository, without its title
    <!-- decisions -->                           a list of docs/adr/

A file that is named as `docs/NAME.md` becomes a link to its page. A picture of images/ that has a dark sibling
(`NAME-dark.svg`) is shown as fits the page.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import relpath
from typing import Any, Literal, Union, get_args, get_origin

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from secateur.config import RunConfig

ROOT = Path(__file__).parents[1]
DIRECTIVE = re.compile(r"^<!-- (options|readme|include|decisions):? ?(.*?) -->$", flags=re.MULTILINE)
FENCE = re.compile(r"^```.*?^```$", flags=re.MULTILINE | re.DOTALL)
PAGE = re.compile(r"`docs/([\w/-]+\.md|adr/)`")
PICTURE = re.compile(r"!\[([^\]]*)\]\(((?:\.\./)*images/[\w-]+)\.svg\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pictures of the benchmarks, which lie beside their figures."""
    for picture in sorted((ROOT / "benchmarks" / "results").glob("*.png")):
        uri = picture.relative_to(ROOT).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, **_others: Any) -> str:
    """Make a page's parts, and link what it names."""
    source = page.file.src_uri
    made = moved(DIRECTIVE.sub(lambda match: make(match[1], match[2]), markdown), source)
    # In code nothing is linked.
    pieces = zip(FENCE.split(made), [*FENCE.findall(made), ""], strict=True)
    return "".join(f"{linked(text, source)}{code}" for text, code in pieces)


def on_post_page(output: str, page: Any, **_others: Any) -> str:
    """Refuse a page that fetches something from elsewhere: the site is to be read without a network."""
    found = fetched(output)
    if found:
        raise PluginError(f"{page.file.src_uri} fetches {found[0]}, expected nothing from elsewhere")
    return output


def fetched(html: str) -> list[str]:
    """Give addresses on the network that a browser loads for a page by itself; links are none."""
    loading = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\ssrc=[\"']?(https?:[^\"' >]+)", html)
    linked_in = re.findall(r"<link\b[^>]*>", html)
    styles = (re.search(r"href=[\"']?(https?:[^\"' >]+)", tag) for tag in linked_in if "canonical" not in tag)
    return loading + [found[1] for found in styles if found]


def make(kind: str, argument: str) -> str:
    """Make what a directive asks for."""
    match kind:
        case "options":
            section, *fields = argument.split()
            return options_table(section, fields)
        case "readme":
            return readme_section(argument)
        case "include":
            return without_title((ROOT / argument).read_text(encoding="utf-8"))
        case _:
            return decisions()


def options_table(section: str, fields: list[str]) -> str:
    """Give settings of a section of the configuration, all of them if none is named, as a table.

    Raises:
        KeyError: There is no such section or setting.
    """
    model = RunConfig.model_fields[section].annotation
    known = model.model_fields  # type: ignore[union-attr]
    rows = ["| setting | default | | values |", "|---|---|---|---|"]
    for name in fields or known:
        field = known[name]
        default = field.get_default(call_default_factory=True)
        limits = ", ".join(filter(None, map(limit, field.metadata)))
        values = ", ".join(filter(None, [values_of(field.annotation), limits]))
        text = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{section}.{name}` | {shown(default)} | {text} | {values} |")
    return "\n".join(rows)


def shown(default: object) -> str:
    """Write a default as YAML would."""
    if default is None or default in ((), {}):
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, int) and default >= 1 << 30:
        return f"`{default}` ({default >> 30} GiB)"
    return f"`{default}`"


def values_of(annotation: Any) -> str:
    """Say what a setting may be."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{each}`" for each in get_args(annotation))
    words = {int: "a whole number", float: "a number", str: "a name", bool: "`true`, `false`"}
    if annotation in words:
        return words[annotation]
    kinds = [each for each in get_args(annotation) if each is not type(None)]
    if get_origin(annotation) is tuple:
        return "a list"
    if get_origin(annotation) is dict:
        return "names and values"
    named = list(dict.fromkeys(values_of(each) for each in kinds))
    return " or ".join(filter(None, named)) if get_origin(annotation) in (Union, type(int | None)) else ""


def limit(rule: object) -> str:
    """Write a bound of a setting."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return " ".join(f"{sign} {getattr(rule, name)}" for name, sign in signs.items() if hasattr(rule, name))


def readme_section(heading: str) -> str:
    """Give what is under a heading of the README, up to the next one of its level or above.

    Raises:
        ValueError: There is no such heading.
    """
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    starts = [number for number, line in enumerate(lines) if re.fullmatch(rf"#+ {re.escape(heading)}", line)]
    if len(starts) != 1:
        raise ValueError(f"README.md has {len(starts)} headings {heading!r}, expected one")
    level = lines[starts[0]].count("#")
    return "\n".join(_section(lines[starts[0] + 1 :], level)).strip()


def _section(lines: list[str], level: int) -> Iterator[str]:
    in_code = False
    for line in lines:
        in_code ^= line.startswith("```")
        hashes = len(line) - len(line.lstrip("#"))
        if not in_code and 0 < hashes <= level:
            return
        yield line


def without_title(text: str) -> str:
    """Take the title away, since the page has one."""
    return re.sub(r"\A# .*\n+", "", text)


def decisions() -> str:
    """List the decisions by their titles."""
    files = sorted((ROOT / "docs" / "adr").glob("0*.md"))
    titles = [path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ") for path in files]
    # A list would number them anew.
    return "\n".join(f"- [{title}]({path.name})" for title, path in zip(titles, files, strict=True))


def moved(text: str, source: str) -> str:
    """Make pictures of the benchmarks relative to a page: the site has them where the repository has, but in docs/."""
    start = relpath("benchmarks", str(PurePosixPath(source).parent))
    return re.sub(r"\]\((?:(?:\.\./)+)?benchmarks/results/", f"]({start}/results/", text)


def linked(text: str, source: str) -> str:
    """Link files of docs/ that are named in the text, and pair pictures with their dark siblings."""
    folder = str(PurePosixPath(source).parent)

    def to_page(match: re.Match[str]) -> str:
        name = match[1] if match[1] != "adr/" else "adr/index.md"
        there = name == "adr/index.md" or (ROOT / "docs" / name).is_file()
        return f"[`docs/{match[1]}`]({relpath(name, folder)})" if there and name != source else match[0]

    def to_pair(match: re.Match[str]) -> str:
        alternative, path = match[1], match[2]
        if not (ROOT / "docs" / "images" / f"{PurePosixPath(path).name}-dark.svg").is_file():
            return match[0]
        return f"![{alternative}]({path}.svg#only-light)![{alternative}]({path}-dark.svg#only-dark)"

    return PICTURE.sub(to_pair, PAGE.sub(to_page, text))
