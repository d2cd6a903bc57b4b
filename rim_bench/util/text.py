"""Numbers and records as words, and text from outside spelled for each output format. Knows nothing of runs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rim_bench.evidence.rows import Accuracy

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LINE_END = re.compile("\r\n|\n|\r|\u2028|\u2029")
_HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_CODE = re.compile(r"((?<!`)`[^`<>&|\\]+`(?!`))")
_MARKDOWN_ALWAYS = r"[\\|`]|~(?=~)|(?<=\])\(|(?<!\w)_+(?=[^\W_])|(?<=[^\W_])_+(?!\w)"
_MARKDOWN = re.compile(rf"<(?=[A-Za-z/!?])|&(?=#?\w+;)|\*(?!\s)|(?<!\s)\*|{_MARKDOWN_ALWAYS}")
_MARKDOWN_STRICT = re.compile(f"[<>&*]|{_MARKDOWN_ALWAYS}")
_MARKDOWN_BLOCK = re.compile(r"\s*(?:\d{1,9}(?=[.)]\s)|(?=#{1,6}\s|>|[-+*]\s+\S|\[[^\]]*\]:|([-=])\s*(?:\1\s*){2,}$))")
_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$"}
)


def escape_terminal(text: str) -> str:
    """`text` with every character that a terminal obeys and nobody sees spelled out: "\\x1b", "\\u202e".

    These are the control characters but newline and tab, the marks that turn the direction of writing, the separators
    of lines and paragraphs, and surrogates, which no file can hold.
    """
    return _UNSEEN.sub(lambda m: m[0].encode("unicode_escape").decode(), text)


def escape_line(text: str) -> str:
    """The same on one line: a title, a note, a comment in LaTeX."""
    return escape_terminal(_LINE_END.sub(" ", text))


def escape_markdown(text: str, strict: bool = False) -> str:
    """One line of GitHub Markdown that shows `text`: no tag, link, emphasis, table cell or block of its own begins.

    Our sentences have code in backticks, which stays where it holds nothing that could be a tag.

    Args:
        strict: every `<`, `>`, `&`, backtick and asterisk is escaped, and not only where it would mean something.
    """
    pattern = _MARKDOWN_STRICT if strict else _MARKDOWN
    pieces = [escape_line(text)] if strict else _CODE.split(escape_line(text))
    for k in range(0, len(pieces), 2):  # between the pieces of code
        pieces[k] = pattern.sub(lambda m: _HTML.get(m[0], "".join(f"\\{c}" for c in m[0])), pieces[k])
    line = "".join(pieces)
    block = _MARKDOWN_BLOCK.match(line)
    return line if block is None else f"{line[: block.end()]}\\{line[block.end() :]}"


def code_markdown(text: str) -> str:
    """`text` as code in a line of Markdown."""
    line = escape_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence}{line}{fence}" if len(fence) == 1 else f"{fence} {line} {fence}"


def escape_latex(text: str) -> str:
    """`text` on one line, with every character that LaTeX reads as a command spelled out."""
    return escape_line(text).translate(_LATEX)


def escape_csv(value: Any) -> Any:
    """A cell that no spreadsheet runs: an apostrophe before text that it would take for a formula. Numbers stay."""
    if not isinstance(value, str):
        return value
    text = escape_terminal(value)
    if text[:1] not in ("\t", "\n") and text.lstrip()[:1] not in tuple("=+-@＝＋－＠"):
        return text
    try:
        float(text.replace(",", "").removesuffix("%"))
    except ValueError:
        return text if text == "-" else f"'{text}"
    return text


def escape_html(text: str) -> str:
    """`text` for an element or an attribute of HTML."""
    import html  # a table of two thousand names, which the start of a command spares

    return html.escape(escape_terminal(text))


def escape_json(text: str) -> str:
    """A JSON document that was written without `ensure_ascii`, safe to print: nothing unseen is left in its strings."""
    return _UNSEEN.sub(lambda m: f"\\u{ord(m[0]):04x}", text)


def escape_plot(text: str) -> str:
    """`text` for a picture: matplotlib reads what stands between two dollar signs as a formula."""
    return re.sub(r"(?<!\\)\$", r"\\$", escape_terminal(text))


def format_number(value: float | None, digits: int = 1, scale: float = 1.0) -> str:
    """`value` times `scale` with so many decimals; "-" where there is none."""
    return "-" if value is None or math.isnan(value) else f"{value * scale:,.{digits}f}"


def format_percent(value: float | None) -> str:
    """A fraction in per cent, one decimal."""
    return format_number(value, 1, 100)


def format_flops(value: float | None) -> str:
    """FLOPs with three digits and a unit: "3.1 T"."""
    if value is None or math.isnan(value):
        return "-"
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def format_bytes(value: float | None) -> str:
    """Bytes with three digits and a unit of 1,000: "74.8 MB"."""
    text = format_flops(value)
    return text if text == "-" else f"{text}B" if " " in text else f"{text} B"


def format_amount(value: float | None, scale: float = 1.0) -> str:
    """One decimal, and never 0.0 for what is more than nothing."""
    return "<0.1" if value is not None and 0 < value * scale < 0.1 else format_number(value, 1, scale)


def format_points(value: float) -> str:
    """A difference of fractions in points, with its sign."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"  # + 0.0: no minus before a zero


def format_p(value: float) -> str:
    """Three decimals, "<0.001" under them."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def format_interval(low: float, high: float) -> str:
    """Bounds in per cent."""
    return f"[{format_percent(low)}, {format_percent(high)}]"


def format_accuracy(a: Accuracy, floor: bool = False) -> str:
    """Value, spread over seeds where there are several, interval, and whether that includes the floor."""
    sd = "" if math.isnan(a.sd) else f" ± {format_percent(a.sd)}"
    return f"{format_percent(a.value)}{sd} {format_interval(a.interval.low, a.interval.high)}" + (
        " at the floor" if floor else ""
    )


def model_label(setting: Mapping[str, Any]) -> str:
    """The model of a benchmark's setting: name, size, parameters."""
    backbone = setting["backbone"]
    size = f", {backbone['layers']} x {backbone['width']}" if "layers" in backbone else ""
    return f"{backbone['name']}{size} ({setting['parameters'] / 1e6:.1f} M)"


def machine_label(machine: Mapping[str, Any]) -> str:
    """Where a benchmark ran: its GPU, or processor and threads."""
    threads = machine["threads"]
    cpu = f"{machine['cpu']['model']}, {threads} thread{'s' if threads > 1 else ''}"
    return str(machine["gpu"]["name"]) if machine["gpu"] else cpu


def short(value: Any) -> str:
    """A value as text, hashes cut to 12 digits."""
    return str(value)[:12] if re.fullmatch("[0-9a-f]{40,}", str(value)) else str(value)


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        k: v
        for name, inner in value.items()
        for k, v in leaves(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }


@lru_cache(maxsize=1 << 14)  # thousands of questions are sorted by it, of each run
def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key: T=2 before T=10, and where one text has a number and the other a letter, the number first.

    Equal for equal texts only.
    """
    return tuple((0, int(p), p) if p.isascii() and p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", text) if p)
