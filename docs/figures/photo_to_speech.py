"""Draw docs/images/photo-to-speech.svg: a photo, where the model looked, its speech units and their waveform.

    pip install -e '.[docs]' && python docs/figures/photo_to_speech.py [--photo PHOTO] [--model default] [--out FILE]

Run it again when the embedded bundle changes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from im2sp import Captioner, SpeechCaption
from im2sp.image.loading import load_image
from im2sp.speech.audio import HOP, SAMPLE_RATE

ROOT = Path(__file__).parents[2]
GOLDEN_RATIO = 0.618034  # neighbouring numbers of units get hues that are far apart


def draw(photo: Image.Image, caption: SpeechCaption, grid: tuple[int, int]) -> Figure:
    """Draw a caption of a photo; `grid`: rows and columns of the last image tokens over the photo."""
    figure = Figure(figsize=(9.2, 5.2), layout="constrained")
    axes = figure.subplot_mosaic([["photo", "heat"], ["units", "units"], ["wave", "wave"]], height_ratios=(3, 0.8, 1.5))
    axes["photo"].imshow(photo, interpolation="none")
    axes["photo"].set_title("A photo", fontsize=10)
    looked = caption.attention[:, -grid[0] * grid[1] :].mean(axis=0).reshape(grid)
    axes["heat"].imshow(photo, interpolation="none")
    axes["heat"].imshow(
        looked, extent=(0, photo.width, photo.height, 0), alpha=0.6, cmap="inferno", interpolation="none"
    )
    axes["heat"].set_title(f"{looked.size} image tokens: where the model looked", fontsize=10)
    for name in ("photo", "heat"):
        axes[name].axis("off")
    frame = HOP / SAMPLE_RATE
    starts = (np.cumsum(caption.durations) - caption.durations) * frame
    hues = [mpl.colors.hsv_to_rgb((unit * GOLDEN_RATIO % 1, 0.55, 0.8)) for unit in caption.units.tolist()]
    spans = list(zip(starts.tolist(), (caption.durations * frame).tolist(), strict=True))
    axes["units"].broken_barh(spans, (0, 1), facecolors=hues)
    axes["units"].set_title(f"{len(caption.units)} speech units", fontsize=10)
    axes["units"].set_yticks([])
    times = np.arange(len(caption.waveform)) / SAMPLE_RATE
    axes["wave"].plot(times, caption.waveform, linewidth=0.4, color="#3b5b7a", rasterized=True)
    axes["wave"].set_title("The waveform", fontsize=10)
    axes["wave"].set(xlabel="seconds", yticks=[])
    for name in ("units", "wave"):
        axes[name].set_xlim(0, len(caption.waveform) / SAMPLE_RATE)
        axes[name].spines[["top", "right", "left"]].set_visible(False)
    return figure


def main() -> None:
    """Caption the photo and draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, default=ROOT / "examples" / "chelsea.jpg")
    parser.add_argument("--model", default="default")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "photo-to-speech.svg")
    given = parser.parse_args()
    mpl.rcParams |= {"svg.hashsalt": "im2sp", "svg.fonttype": "none"}  # the same file every time, with text as text
    captioner = Captioner.from_pretrained(given.model, threads=1)
    photo = load_image(given.photo)
    caption = captioner.caption(photo)
    photo.thumbnail((240, 240))  # so that the file stays small
    figure = draw(photo, caption, captioner.bundle.config.image.grid)
    title = "From a photo to speech, by the embedded bundle"
    figure.savefig(given.out, metadata={"Date": None, "Title": title}, dpi=150)
    print(given.out)


if __name__ == "__main__":
    main()
