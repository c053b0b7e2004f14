"""Draws the page's PNG icons, which look like icon.svg (``python draw.py``)."""

from pathlib import Path

from PIL import Image, ImageDraw

GROUND, FRUIT, LEAF = "#1f6f54", "#f4a63a", "#bfe3c9"
_UNITS = 512
_FINER = 4  # drawn larger and shrunk: Pillow's shapes have hard edges


def draw(size: int, *, corner: int, scale: float) -> Image.Image:
    """Return the icon of ``size`` pixels.

    Args:
        size: side of the icon, in pixels.
        corner: radius of the background's corners, in 512ths of the side; the outside is transparent.
        scale: size of the fruit; a maskable icon may be cut to the inner 80 %.
    """
    side = _UNITS * _FINER
    icon = Image.new("RGBA", (side, side))
    pen = ImageDraw.Draw(icon)
    pen.rounded_rectangle((0, 0, side - 1, side - 1), corner * _FINER, GROUND)

    def at(x: float, y: float) -> tuple[float, float]:
        return tuple((_UNITS / 2 + (value - _UNITS / 2) * scale) * _FINER for value in (x, y))  # type: ignore[return-value]

    def curve(*points: tuple[float, float]) -> list[tuple[float, float]]:
        (x0, y0), (x1, y1), (x2, y2), (x3, y3) = points
        steps = [step / 40 for step in range(41)]
        return [
            at(
                x0 * (1 - t) ** 3 + 3 * x1 * t * (1 - t) ** 2 + 3 * x2 * t**2 * (1 - t) + x3 * t**3,
                y0 * (1 - t) ** 3 + 3 * y1 * t * (1 - t) ** 2 + 3 * y2 * t**2 * (1 - t) + y3 * t**3,
            )
            for t in steps
        ]

    pen.ellipse((*at(124, 168), *at(388, 432)), FRUIT)
    pen.polygon(
        curve((256, 176), (256, 114), (300, 72), (374, 72)) + curve((374, 72), (374, 140), (328, 176), (256, 176)), LEAF
    )
    radius = 10 * scale * _FINER
    for x, y in curve((256, 190), (256, 156), (248, 130), (230, 106)):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), LEAF)
    return icon.resize((size, size), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    folder = Path(__file__).parent
    for name, size, corner, scale in [
        ("icon-192", 192, 112, 1.0),
        ("icon-512", 512, 112, 1.0),
        ("maskable-512", 512, 0, 0.8),
        ("apple-touch-icon", 180, 0, 0.9),
    ]:
        image = draw(size, corner=corner, scale=scale)
        (image if corner else image.convert("RGB")).save(folder / f"{name}.png", optimize=True)
