"""A full-size Im2Sp of random weights, from a published-kind checkpoint to speech, against transformers, in one run.

    python benchmarks/full_size.py [--size large] [--input photos] [--precisions fp32 fp16 int8] [--tokens 64]
                                   [--beam 1] [--threads 1] [--rounds 3] [--work FOLDER]

Written are a checkpoint of an Im2Sp (git-large with 200 units is about 350 million parameters; with `--input units` a
token ViT looks at image units, and a ViT-VQGAN makes them) and a unit HiFi-GAN of published size, in the published
layouts. For each precision, `im2sp convert im2sp` makes a bundle, `im2sp caption` speaks about a photo with it (from a
table of units that `im2sp tokenize` wrote, where it looks at units), `im2sp evaluate --strict` scores it, and the
runtime is compared with `transformers.generate`: the same weights, picture, number of tokens and threads, each in a
process of its own, taking turns. Both are asked for exactly `--tokens` tokens and for one; the difference gives tokens
a second. Printed are medians, in wall-clock and, as machines are shared, in processor time, and how soon the first unit
is there, peak memory, and the share of the memory bandwidth: bytes that a step has to read (weights, keys and values)
over time, against what this machine copies and reads in the same run. `--size small` tries the script itself, `--size
decoder` has the decoder of "large" behind one layer of its image encoder, which is enough to compare steps. Needs
im2sp[train,units]; Linux for peak memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from im2sp.bundle import SPECIAL_TOKENS
from im2sp.captioner import Captioner
from im2sp.decoding.options import DecodingOptions

OURS, THEIRS = "im2sp", "transformers"
UNITS = 200
NEVER = [0, 103]  # pad, and the id that no unit has
GIGABYTE = 10**9
COPIED = 256 * 2**20  # bytes, far beyond any cache
SAMPLED = ("--temperature", "1")  # random weights say hardly anything else of some length
Figures = dict[str, Any]

SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "large": {
        "vision": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
                   "image_size": 224, "patch_size": 14},
        "text": {"hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072,
                 "max_position_embeddings": 1024},
        "token_vit": {}, "tokenizer": {}, "vocoder": {},  # published as their defaults are
    },
    "small": {
        "vision": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                   "image_size": 56, "patch_size": 14},
        "text": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256,
                 "max_position_embeddings": 256},
        "token_vit": {"width": 128, "layers": 2, "heads": 2, "feed_forward": 128, "crop": 6},
        "tokenizer": {"image_size": 64, "width": 64, "layers": 1, "heads": 1, "feed_forward": 64, "codebook_size": 90,
                      "decoder_layers": 1},
        "vocoder": {"channels": 32},
    },
}  # fmt: skip
SIZES["decoder"] = SIZES["large"] | {"vision": SIZES["large"]["vision"] | {"num_hidden_layers": 1}}
SIZES["base"] = SIZES["large"] | {"vision": {"image_size": 224, "patch_size": 16}}  # the rest as transformers has it


@dataclass(frozen=True)
class Settings:
    """What is compared."""

    work: Path
    size: str
    reads_units: bool
    tokens: int
    beam: int
    threads: int

    @property
    def image_units(self) -> Path:
        """The photo as the units that the first bundle makes of it."""
        return self.work / "units.npy"


def random_git(settings: Settings) -> Any:
    """GitForCausalLM of random weights, with its image encoder replaced where it reads units."""
    import torch
    from transformers import GitConfig, GitForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(settings.threads)
    sizes = SIZES[settings.size]
    vision = sizes["vision"]
    if settings.reads_units:
        from im2sp.train.models.token_vit import TokenVit, TokenVitConfig

        token_vit = TokenVit(TokenVitConfig(**sizes["token_vit"])).eval()
        vision = {"hidden_size": token_vit.config.width, "num_hidden_layers": 1, "intermediate_size": 8,
                  "num_attention_heads": 1, "image_size": token_vit.config.grid, "patch_size": 1}  # fmt: skip
    config = GitConfig(vision_config=vision, vocab_size=UNITS + 3, tie_word_embeddings=True, **sizes["text"])
    git = GitForCausalLM(config)
    with torch.no_grad():
        for parameter in git.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)  # as they come, they say the same thing about everything
        git.git.embeddings.position_embeddings.weight.mul_(20)  # and the same token again and again
    if settings.reads_units:
        git.git.image_encoder = _replaced(token_vit)
    git.output.weight = git.git.embeddings.word_embeddings.weight
    return git.eval()


def _replaced(token_vit: Any) -> Any:
    """What stands at `git.image_encoder` where a token ViT looks at image units."""
    from types import SimpleNamespace

    from torch import Tensor, nn

    class Replaced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vision_model = token_vit

        def forward(self, vectors: Tensor, **_: object) -> SimpleNamespace:
            return SimpleNamespace(last_hidden_state=self.vision_model(vectors))

    return Replaced()


def write_checkpoints(settings: Settings) -> Figures:
    """The Im2Sp and its vocoder as published; what takes memory is in this process."""
    import torch

    from im2sp.train.models.unit_hifigan import UnitHifigan, UnitHifiganConfig
    from im2sp.train.models.vit_vqgan import VitVqgan, VitVqganConfig

    git, work = random_git(settings), settings.work
    state = {f"model.{name}": tensor for name, tensor in git.state_dict().items()}
    if settings.reads_units:
        tokenizer = VitVqgan(VitVqganConfig(**SIZES[settings.size]["tokenizer"]))
        named = tokenizer.state_dict()
        torch.save(named.pop("codebook.weight"), work / "codebook.ckpt")
        state |= {f"tokenizer.{name}": tensor for name, tensor in named.items()}
    torch.save({"epoch": 0, "state_dict": state}, work / "last.ckpt")
    git.config.save_pretrained(work)
    sizes = UnitHifiganConfig(units=UNITS, **SIZES[settings.size]["vocoder"])
    write_vocoder(sizes, UnitHifigan(sizes).state_dict(), work / "vocoder")
    layers = sum(parameter.numel() for name, parameter in git.git.encoder.named_parameters())
    return {
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "step parameters": layers + git.output.weight.numel(),
        "image tokens": git.git.encoder.layer[0].attention.self.image_patch_tokens,
        "cache": 2 * git.config.num_hidden_layers * git.config.hidden_size * 4,  # bytes a position
    }


def write_vocoder(sizes: Any, state: dict[str, Any], folder: Path) -> None:
    """Write g_00500000, whose convolutions are under weight norm, and config.json."""
    import torch

    generator = {}
    for name, tensor in state.items():
        if name.endswith(".weight") and name.startswith(("conv_", "ups.", "resblocks.")):
            generator[f"{name}_g"] = tensor.flatten(1).norm(dim=1).view(-1, 1, 1)
            generator[f"{name}_v"] = tensor
        else:
            generator[name] = tensor
    folder.mkdir()
    torch.save({"generator": generator}, folder / "g_00500000")
    config = {
        "num_embeddings": sizes.units, "embedding_dim": sizes.width, "model_in_dim": sizes.width,
        "upsample_rates": sizes.upsample_rates, "upsample_kernel_sizes": sizes.upsample_kernels,
        "upsample_initial_channel": sizes.channels, "resblock": "1", "resblock_kernel_sizes": sizes.block_kernels,
        "resblock_dilation_sizes": sizes.block_dilations,
        "dur_predictor_params": {"encoder_embed_dim": sizes.width, "var_pred_hidden_dim": sizes.duration_width,
                                 "var_pred_kernel_size": sizes.duration_kernel},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


class Ours:
    """The runtime with a bundle."""

    def __init__(self, settings: Settings, bundle: Path) -> None:
        self._captioner = Captioner.from_pretrained(bundle, threads=settings.threads)
        self._options = DecodingOptions(beam=settings.beam, max_repeats=0)
        self._image: Any = settings.work / "photo.png"
        if settings.reads_units:
            from im2sp.image.units import ImageUnits

            if not settings.image_units.exists():
                np.save(settings.image_units, self._captioner.tokenize(self._image))
            self._image = ImageUnits(np.load(settings.image_units), self._captioner.image_tokenizer)

    def say(self, tokens: int) -> list[int]:
        """So many tokens about the photo, as published ids."""
        options = replace(self._options, min_tokens=tokens, max_tokens=tokens)
        found = self._captioner.decode(self._captioner.encode(self._image), options).tokens
        units = (int(token) - SPECIAL_TOKENS for token in found)
        return [unit + 1 if unit <= 100 else unit + 3 for unit in units]


class Theirs:
    """transformers with the checkpoint."""

    def __init__(self, settings: Settings, _: Path) -> None:
        import torch

        self._git, self._beam, self._torch = random_git(settings), settings.beam, torch
        if settings.reads_units:
            codebook = torch.load(settings.work / "codebook.ckpt", weights_only=True)
            side, crop = (
                int(len(np.load(settings.image_units)) ** 0.5),
                self._git.git.image_encoder.vision_model.config.crop,
            )
            vectors = codebook[torch.from_numpy(np.load(settings.image_units))].T.reshape(1, -1, side, side)
            edge = (side - crop) // 2
            self._pixels = vectors[..., edge : edge + crop, edge : edge + crop].contiguous()
        else:
            from transformers import CLIPImageProcessorPil

            side = self._git.config.vision_config.image_size
            processor = CLIPImageProcessorPil(size=side, crop_size=side)
            self._pixels = processor(Image.open(settings.work / "photo.png"), return_tensors="pt")["pixel_values"]

    def say(self, tokens: int) -> list[int]:
        """The same."""
        with self._torch.inference_mode():
            found = self._git.generate(
                pixel_values=self._pixels,
                num_beams=self._beam,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                suppress_tokens=NEVER,
                renormalize_logits=True,
                do_sample=False,
            )
        return found[0, 1:].tolist()


def work_in(connection: Connection, kind: type[Ours] | type[Theirs], settings: Settings, bundle: Path) -> None:
    """A process that says so many tokens as it is asked for, and ends with its peak memory."""
    side = kind(settings, bundle)
    side.say(1)
    connection.send("ready")
    while tokens := connection.recv():
        wall, processor = time.perf_counter(), time.process_time()
        said = side.say(tokens)
        connection.send((time.perf_counter() - wall, time.process_time() - processor, said))
    connection.send(peak_memory())


def bandwidth_in(connection: Connection, threads: int) -> None:
    """A process that measures, when asked, bytes a second of copying (read and written) and of reading, by processor
    time.
    """
    import torch

    torch.set_num_threads(threads)
    source, target = torch.ones(COPIED // 4), torch.zeros(COPIED // 4)
    moves: tuple[tuple[int, Callable[[], object]], ...] = (
        (2 * COPIED, lambda: target.copy_(source)),
        (2 * COPIED, lambda: torch.dot(source, target)),
    )
    while connection.recv():
        found = []
        for moved, move in moves:
            started = time.process_time()
            move()
            found.append(moved / (time.process_time() - started) * threads)
        connection.send(found)


def built(connection: Connection, settings: Settings) -> None:
    """A process that writes the checkpoints, so that the memory of that is gone afterwards."""
    connection.send(write_checkpoints(settings))


def peak_memory() -> float:
    """Bytes that this process has held at most; a child would inherit what `getrusage` says of its parent."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@contextmanager
def process(target: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """A fresh process at the other end of a pipe; it is waited for."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    child = multiprocessing.get_context("spawn").Process(target=target, args=(there, *arguments))
    child.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        child.join(60)
        child.kill()


WATCH = (
    "import resource, subprocess, sys, time; s = time.perf_counter(); subprocess.run(sys.argv[1:], check=True, "
    "stdout=2); print(time.perf_counter() - s, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
)


def watched(*command: str) -> tuple[float, float]:
    """Seconds and peak bytes of a command of this project."""
    whole = [sys.executable, "-c", WATCH, sys.executable, "-m", *command]
    seconds, memory = subprocess.run(whole, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-2:]
    return float(seconds), float(memory)


def make_bundle(settings: Settings, precision: str) -> Path:
    """Convert the checkpoint by the command line; prints what that took."""
    bundle = settings.work / precision
    arguments = ["im2sp", "convert", "im2sp", str(settings.work / "last.ckpt"), "--precision", precision]
    arguments += [
        "--config",
        str(settings.work / "config.json"),
        "--vocoder",
        str(settings.work / "vocoder" / "g_00500000"),
    ]
    if settings.reads_units:
        arguments += ["--codebook", str(settings.work / "codebook.ckpt")]
    seconds, memory = watched(*arguments, "-o", str(bundle))
    size = sum(path.stat().st_size for path in bundle.iterdir())
    outside = [path.name for path in bundle.glob("*.data")]
    print(
        f"{precision}: converted in {seconds:.0f} s, {memory / GIGABYTE:.1f} GB at most; {size / 1e6:,.0f} MB on disk,"
    )
    print(f"  weights beside their graphs: {', '.join(outside) or 'none'}", flush=True)
    return bundle


def speak(settings: Settings, bundle: Path) -> None:
    """Speak about the photo by the command line, through a table of image units where there are some."""
    photo, model = str(settings.work / "photo.png"), ["--model", str(bundle), "--threads", str(settings.threads)]
    if settings.reads_units:
        table = str(settings.work / f"{bundle.name}.parquet")
        seconds, memory = watched("im2sp", "tokenize", photo, "-o", table, *model)
        print(f"  im2sp tokenize: {seconds:.1f} s, {memory / GIGABYTE:.2f} GB at most")
        photo = table
    seconds, memory = watched("im2sp", "caption", photo, "-o", str(settings.work / "said"), *SAMPLED, *model)
    (line,) = (settings.work / "said" / "captions.jsonl").read_text().splitlines()
    units = len(json.loads(line)["units"])
    print(
        f"  im2sp caption: {units} units, {seconds:.1f} s from start to wav, {memory / GIGABYTE:.2f} GB at most",
        flush=True,
    )
    shutil.rmtree(settings.work / "said")


def score(settings: Settings, bundle: Path) -> None:
    """Score the bundle by the command line, as the paper does; the figures of random weights mean nothing."""
    images = [{"filename": "photo.png", "split": "test", "sentences": [{"raw": "A dog runs."}, {"raw": "The dog."}]}]
    captions, out = settings.work / "dataset_photos.json", settings.work / "scored"
    captions.write_text(json.dumps({"images": images}))
    more = ["--split", "test", "--strict", "--threads", str(settings.threads), "-o", str(out)]
    seconds, memory = watched("im2sp", "evaluate", str(bundle), str(captions), *more)
    spoken = json.loads((out / "report.json").read_text())["mean_seconds"]
    print(
        f"  im2sp evaluate: {spoken:.1f} s of speech scored in {seconds:.1f} s, {memory / GIGABYTE:.2f} GB at most",
        flush=True,
    )
    shutil.rmtree(out)


@dataclass
class Turns:
    """What both sides took in turns: a row a round, of seconds to the first token and from there to the last, each by
    the clock and by the processor.
    """

    rows: dict[str, list[tuple[float, ...]]]
    said: dict[str, list[int]]
    peaks: dict[str, float]  # bytes
    bandwidth: tuple[float, ...]  # bytes a second of copying and of reading

    def median(self, name: str) -> list[float]:
        """Of each column."""
        return [statistics.median(column) for column in zip(*self.rows[name], strict=True)]

    def ratios(self) -> list[float]:
        """How many times longer transformers takes, the median over rounds of each column."""
        pairs = zip(self.rows[THEIRS], self.rows[OURS], strict=True)
        quotients = [[slow / fast for slow, fast in zip(*pair, strict=True)] for pair in pairs]
        return [statistics.median(column) for column in zip(*quotients, strict=True)]


def take_turns(settings: Settings, bundle: Path, rounds: int) -> Turns:
    """Run both sides, and measure the bandwidth between."""
    turns, bandwidth = Turns({OURS: [], THEIRS: []}, {}, {}, ()), []
    with ExitStack() as stack:
        sides: dict[str, Connection] = {}
        for name, kind in ((OURS, Ours), (THEIRS, Theirs)):  # the first writes the image units down for the second
            sides[name] = stack.enter_context(process(work_in, kind, settings, bundle))
            sides[name].recv()
        memory = stack.enter_context(process(bandwidth_in, settings.threads))
        for _ in range(rounds):
            for name, side in sides.items():
                side.send(1)
                first, first_processor, _ = side.recv()
                side.send(settings.tokens)
                whole, whole_processor, turns.said[name] = side.recv()
                rest, rest_processor = whole - first, whole_processor - first_processor
                turns.rows[name].append((first, first_processor, rest, rest_processor))
            memory.send(True)
            bandwidth.append(memory.recv())
        for name, side in sides.items():
            side.send(0)
            turns.peaks[name] = side.recv()
        memory.send(False)
    turns.bandwidth = tuple(statistics.median(column) for column in zip(*bandwidth, strict=True))
    return turns


def compare(settings: Settings, bundle: Path, rounds: int, model: Figures, precision: str) -> None:
    """Both sides in turns; prints medians and ratios."""
    turns, steps = take_turns(settings, bundle, rounds), settings.tokens - 1
    for name in (OURS, THEIRS):
        first, first_processor, rest, rest_processor = turns.median(name)
        print(
            f"  {name}: {steps / rest:.1f} tokens/s ({steps / rest_processor:.1f} by processor time), first unit after "
            f"{first:.2f} s ({first_processor:.2f} s), {turns.peaks[name] / GIGABYTE:.2f} GB at most"
        )
    first, first_processor, rest, rest_processor = turns.ratios()
    print(
        f"  {THEIRS} takes {rest:.2f} times as long for a token ({rest_processor:.2f} by processor time), {first:.2f} "
        f"times to the first unit ({first_processor:.2f})"
    )
    bytes_read = model["step parameters"] * (1 + 4 / 128 if precision == "int8" else 4)
    bytes_read += model["cache"] * (model["image tokens"] + settings.beam * settings.tokens / 2)
    reached, (copying, reading) = bytes_read * steps / turns.median(OURS)[3], turns.bandwidth
    limit = max(copying, reading)
    print(
        f"  a step reads {bytes_read / 1e6:.0f} MB, so {reached / GIGABYTE:.1f} GB/s of processor time: "
        f"{100 * reached / limit:.0f} % of {limit / GIGABYTE:.1f} GB/s (copying {copying / GIGABYTE:.1f}, reading "
        f"{reading / GIGABYTE:.1f})"
    )
    pairs = enumerate(zip(turns.said[OURS], turns.said[THEIRS], strict=True))
    same = next((index for index, (one, other) in pairs if one != other), settings.tokens)
    print(f"  the first {same} of {settings.tokens} tokens are those of {THEIRS}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="large")
    parser.add_argument("--input", choices=["photos", "units"], default="photos")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "fp16", "int8"], default=["fp32", "fp16", "int8"])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="folder for the files, which are several GB; deleted afterwards")
    parser.add_argument("--no-speech", action="store_true", help="leave `im2sp caption` and `im2sp evaluate` out")
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        settings = Settings(
            Path(folder), options.size, options.input == "units", options.tokens, options.beam, options.threads
        )
        random = np.random.default_rng(0)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((320, 240)).save(
            settings.work / "photo.png"
        )
        with process(built, settings) as builder:
            model = builder.recv()
        load = os.getloadavg()[0]
        print(f"Im2Sp of {options.input}, {model['parameters'] / 1e6:.0f} million parameters, of which a step of the")
        print(f"decoder uses {model['step parameters'] / 1e6:.1f}; {options.tokens} tokens, beam {options.beam}, "
              f"{options.threads} thread(s), load of the machine {load:.1f}", flush=True)  # fmt: skip
        for precision in options.precisions:
            bundle = make_bundle(settings, precision)
            if not options.no_speech:
                speak(settings, bundle)
                score(settings, bundle)
            compare(settings, bundle, options.rounds, model, precision)
            shutil.rmtree(bundle)


if __name__ == "__main__":
    main()
