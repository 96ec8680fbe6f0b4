"""Draw the figures from `result.json` and `tokens.json`, for light and dark pages: `python docs/figure.py`."""

import json
import math
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCHEMES = {
    "light": {"text": "#1f2328", "faint": "#59636e", "grid": "#d8dee4", "ours": "#2f7d3a", "baseline": "#8a6d3b"},
    "dark": {"text": "#e6edf3", "faint": "#9198a1", "grid": "#30363d", "ours": "#8fc47d", "baseline": "#d3ac6a"},
}
"""Colours by scheme; all texts have a contrast of at least 4.5 : 1 against the page."""
FONT = 'font-family="system-ui, -apple-system, Segoe UI, sans-serif" font-size="13"'
WIDTH, LEFT, RIGHT = 480, 186, 356
"""Narrow, so that the text can be read on a phone."""
TOP, ROW, BOTTOM = 70, 32, 56
TICKS = (5.0, 5.5, 6.0, 6.5, 7.0)
FOOT, LOSSES, TOKENS = 330, (4.0, 5.0, 6.0, 7.0), (100_000, 200_000, 500_000, 1_000_000, 2_000_000)


def draw(result: dict[str, Any], scheme: str) -> str:
    """Return the figure as SVG."""
    colours, rows = SCHEMES[scheme], result["rows"]
    height = TOP + ROW * len(rows) + BOTTOM
    parts = _head(result, height, colours)
    for tick in TICKS:
        x, end = _x(tick), height - BOTTOM
        parts.append(f'<path d="M{x} {TOP}V{end}" stroke="{colours["grid"]}"/>')
        parts.append(_text(x, end + 20, f"{tick:g}", colours["faint"], 'text-anchor="middle" font-size="13"'))
    for place, row in enumerate(rows):
        parts += _row(row, TOP + ROW * place + ROW // 2, colours)
    return "\n".join([*parts, "</svg>", ""])


def draw_tokens(result: dict[str, Any], scheme: str) -> str:
    """Return losses with their errors against training tokens as SVG, with tokens on a logarithmic axis."""
    colours = SCHEMES[scheme]
    parts = _head(result, FOOT + BOTTOM, colours)
    for loss in LOSSES:
        y = _loss_y(loss)
        parts.append(f'<path d="M44 {y}H{RIGHT}" stroke="{colours["grid"]}"/>')
        parts.append(_text(36, y + 5, f"{loss:g}", colours["faint"], 'text-anchor="end" font-size="13"'))
    for tokens in TOKENS:
        x, label = _tokens_x(tokens), f"{tokens / 1e6:g}M"
        parts.append(_text(x, FOOT + 22, label, colours["faint"], 'text-anchor="middle" font-size="13"'))
    for arm in result["arms"]:
        parts += _line(arm, [_tokens_x(tokens) for tokens in result["tokens"]], colours)
    return "\n".join([*parts, "</svg>", ""])


def _line(arm: dict[str, Any], xs: list[float], colours: dict[str, str]) -> list[str]:
    """Return the line of an arm, with a bar and a label for every point; labels lie above it, or below."""
    colour, points = colours[arm["kind"]], list(zip(xs, arm["losses"], arm["errors"], strict=False))
    path = "L".join(f"{x} {_loss_y(loss)}" for x, loss, _ in points)
    parts = [f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>']
    down = 22 if arm["below"] else -12
    for x, loss, error in points:
        y, low, high = (_loss_y(value) for value in (loss, loss - error, loss + error))
        bar = f"M{x} {low}V{high}M{x - 5} {low}H{x + 5}M{x - 5} {high}H{x + 5}"
        parts.append(f'<path d="{bar}" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
        parts.append(_text(x, y + down, f"{loss:.2f}", colours["text"], 'text-anchor="middle"'))
    y = _loss_y(arm["losses"][-1]) + (12 if arm["below"] else -2)
    return [*parts, _text(points[-1][0] + 12, y, arm["start"], colours["text"], "")]


def _head(result: dict[str, Any], height: int, colours: dict[str, str]) -> list[str]:
    size = f'width="{WIDTH}" height="{height}"'
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {height}" role="img" {FONT}>',
        f"<title>{result['title']}: {result['subtitle']}</title>",
        _text(8, 26, result["title"], colours["text"], 'font-size="15" font-weight="600"'),
        _text(8, 48, result["subtitle"], colours["faint"], 'font-size="13"'),
        _text(8, height - 10, result["note"], colours["faint"], 'font-size="13"'),
    ]


def _tokens_x(tokens: float) -> float:
    return round(80 + math.log(tokens / TOKENS[0], TOKENS[-1] / TOKENS[0]) * (RIGHT - 106), 1)


def _loss_y(loss: float) -> float:
    low, high = LOSSES[0], LOSSES[-1]
    return round(FOOT - (loss - low) / (high - low) * (FOOT - TOP - 30), 1)


def _row(row: dict[str, Any], y: int, colours: dict[str, str]) -> list[str]:
    loss, error, colour = row["loss"], row["error"], colours[row["kind"]]
    value = f"{loss:.3f} ± {error:.3f}"
    return [
        _text(LEFT - 10, y + 5, row["start"], colours["text"], 'text-anchor="end"'),
        f'<path d="M{_x(loss - error)} {y}H{_x(loss + error)}" stroke="{colour}" stroke-width="3"/>',
        f'<circle cx="{_x(loss)}" cy="{y}" r="6" fill="{colour}"/>',
        _text(RIGHT + 12, y + 5, value, colours["text"], ""),
    ]


def _x(loss: float) -> float:
    low, high = TICKS[0], TICKS[-1]
    return round(LEFT + (loss - low) / (high - low) * (RIGHT - LEFT), 1)


def _text(x: float, y: float, content: str, colour: str, attributes: str) -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" {attributes}>{content}</text>'


FIGURES = {"result": draw, "tokens": draw_tokens}

if __name__ == "__main__":
    for name, drawing in FIGURES.items():
        numbers = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
        for each in SCHEMES:
            (HERE / "assets" / f"{name}-{each}.svg").write_text(drawing(numbers, each), encoding="utf-8")
