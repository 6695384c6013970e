"""A full-size Im2Sp of random weights, from a published-kind checkpoint to speech, against transformers, in one run.

    python benchmarks/full_size.py [--size large] [--input photos] [--precisions fp32 fp16 int8] [--tokens 64]
                                   [--beam 1] [--threads 1] [--rounds 3] [--work FOLDER]

Written are a checkpoint of an Im2Sp (git-large with 200 units is about 350 million parameters; with `--input units` a
token ViT looks at image units, and a ViT-VQGAN makes them) and a unit HiFi-GAN of published size, in the published
layouts; all are made of modules of transformers by tests/train/convert. For each precision, `im2sp convert im2sp` makes
a bundle, `im2sp caption` speaks about a photo with it (from a table of `im2sp tokenize`, where it looks at units),
`im2sp evaluate --strict` scores it, and the runtime is compared with `transformers.generate`: the same weights,
picture, number of tokens and threads, each in a process of its own, taking turns. Both are asked for exactly `--tokens`
tokens and for one; the difference gives tokens a second. Printed are medians, by the clock and, as machines are shared,
by processor time. `--size small` tries the script itself.
Needs the extras train and units; takes several GB of disk, deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image
from processes import memory, positive, sentences, worker

from im2sp.bundle import SPECIAL_TOKENS
from im2sp.captioner import Captioner
from im2sp.decoding.options import DecodingOptions
from im2sp.image.units import ImageUnits
from im2sp.installing import require_extra

UNITS = 200
NEVER = [0, 103]  # pad, and the id that no unit has
SAMPLED = ("--temperature", "1")  # random weights say hardly anything else of some length
SIZES: dict[str, dict[str, dict[str, Any]]] = {
    "large": {
        "vision": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
                   "image_size": 224, "patch_size": 14},
        "text": {"hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072,
                 "max_position_embeddings": 1024},
        "token_vit": {}, "tokenizer": {},  # published as their defaults are
        "vocoder": {"embedding_dim": 128, "upsample_initial_channel": 512},
    },
    "small": {
        "vision": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                   "image_size": 56, "patch_size": 14},
        "text": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256,
                 "max_position_embeddings": 256},
        "token_vit": {"width": 128, "layers": 2, "heads": 2, "feed_forward": 128, "crop": 6},
        "tokenizer": {"image_size": 64, "width": 64, "layers": 1, "heads": 1, "feed_forward": 64, "codebook_size": 90,
                      "decoder_layers": 1},
        "vocoder": {"embedding_dim": 8, "upsample_initial_channel": 32},
    },
}  # fmt: skip


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
    def photo(self) -> Path:
        """The photo."""
        return self.work / "photo.png"

    @property
    def image_units(self) -> Path:
        """The photo as the units that the bundle makes of it."""
        return self.work / "units.npy"


def random_tokenizer(settings: Settings) -> Any:
    """Return ViT-VQGAN of random weights, made of transformers' ViT, in float64."""
    from im2sp.train.models.vit_vqgan import VitVqganConfig
    from tests.train.convert.published_image_models import VitVqganReference

    return VitVqganReference(VitVqganConfig(**SIZES[settings.size]["tokenizer"]))


def random_git(settings: Settings) -> Any:
    """Return a GitForCausalLM of random weights, with its image encoder replaced where it reads units."""
    import torch
    from transformers import GitConfig, GitForCausalLM

    from im2sp.train.models.token_vit import TokenVitConfig
    from tests.train.convert.published_image_models import TokenVitReference

    torch.manual_seed(0)
    torch.set_num_threads(settings.threads)
    sizes = SIZES[settings.size]
    vision = sizes["vision"]
    if settings.reads_units:
        token_vit = TokenVitReference(TokenVitConfig(**sizes["token_vit"])).float()
        vit = token_vit.vit.config
        vision = {"hidden_size": vit.hidden_size, "num_hidden_layers": 1, "intermediate_size": 8,
                  "num_attention_heads": 1, "image_size": vit.image_size, "patch_size": vit.patch_size}  # fmt: skip
    config = GitConfig(vision_config=vision, vocab_size=UNITS + 3, tie_word_embeddings=True, **sizes["text"])
    git = GitForCausalLM(config)
    with torch.no_grad():
        for parameter in git.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)  # as they come, they say the same thing about everything
        git.git.embeddings.position_embeddings.weight.mul_(20)  # and the same token again and again
    if settings.reads_units:
        encoder = git.git.image_encoder
        encoder.vision_model = token_vit
        encoder.forward = lambda vectors, **_: SimpleNamespace(last_hidden_state=token_vit(vectors))
    git.output.weight = git.git.embeddings.word_embeddings.weight
    return git.eval()


def write_checkpoints(connection: Connection, settings: Settings) -> None:
    """Write the Im2Sp and its vocoder as published, and send the number of parameters."""
    import torch

    from tests.train.convert.published_hifigan import CONFIG, Reference, write_published

    git, work, vision = random_git(settings), settings.work, "model.git.image_encoder.vision_model."
    state = {f"model.{name}": tensor for name, tensor in git.state_dict().items()}
    if settings.reads_units:
        token_vit, tokenizer = git.git.image_encoder.vision_model, random_tokenizer(settings)
        state = {name: tensor for name, tensor in state.items() if not name.startswith(vision)}
        state |= {f"{vision}{name}": tensor for name, tensor in token_vit.published().items()}
        state |= {f"tokenizer.{name}": tensor for name, tensor in tokenizer.published().items()}
        torch.save(tokenizer.codes, work / "codebook.ckpt")
    torch.save({"epoch": 0, "state_dict": state}, work / "last.ckpt")
    git.config.save_pretrained(work)
    voice = CONFIG | SIZES[settings.size]["vocoder"] | {"num_embeddings": UNITS}
    width = voice["embedding_dim"]
    voice |= {"model_in_dim": width, "dur_predictor_params": {"var_pred_hidden_dim": width, "var_pred_kernel_size": 3}}
    write_published(work / "vocoder", voice, Reference(voice).state())
    connection.send(sum(tensor.numel() for tensor in state.values()))


class Ours:
    """The runtime with a bundle."""

    def __init__(self, settings: Settings, bundle: Path) -> None:
        self._captioner = Captioner.from_pretrained(bundle, threads=settings.threads)
        self._options = DecodingOptions(beam=settings.beam, max_repeats=0)
        self._image: Any = settings.photo
        if settings.reads_units:
            np.save(settings.image_units, self._captioner.tokenize(self._image))
            self._image = ImageUnits(np.load(settings.image_units), self._captioner.image_tokenizer)

    def say(self, tokens: int) -> list[int]:
        """Say so many tokens about the photo; return them as published ids."""
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
            units = torch.from_numpy(np.load(settings.image_units))
            side, crop = int(len(units) ** 0.5), self._git.git.image_encoder.vision_model.vit.config.image_size
            edge = slice((side - crop) // 2, (side + crop) // 2)
            self._pixels = codebook[units].T.reshape(1, -1, side, side)[..., edge, edge].contiguous()
        else:
            from transformers import CLIPImageProcessorPil

            side = self._git.config.vision_config.image_size
            processor = CLIPImageProcessorPil(size=side, crop_size=side)
            self._pixels = processor(Image.open(settings.photo), return_tensors="pt")["pixel_values"]

    def say(self, tokens: int) -> list[int]:
        """Say so many tokens about the photo."""
        rules = {"num_beams": self._beam, "min_new_tokens": tokens, "max_new_tokens": tokens, "do_sample": False}
        rules |= {"suppress_tokens": NEVER, "renormalize_logits": True}
        with self._torch.inference_mode():
            return self._git.generate(pixel_values=self._pixels, **rules)[0, 1:].tolist()


def count_image_units(connection: Connection, settings: Settings) -> None:
    """Send how many of the photo's image units are those of transformers' ViT."""
    import torch

    tokenizer = random_tokenizer(settings)
    size = (tokenizer.config.image_size,) * 2
    pixels = np.asarray(Image.open(settings.photo).resize(size, Image.Resampling.BICUBIC)).transpose(2, 0, 1) / 255
    with torch.inference_mode():
        expected = tokenizer.units(torch.from_numpy(pixels)[None])[0].numpy()
    found = np.load(settings.image_units)
    connection.send(f"{(found == expected).sum()} of {len(found)}")


SIDES = {"im2sp": Ours, "transformers": Theirs}  # the first writes the image units down for the second


def say(connection: Connection, name: str, settings: Settings, bundle: Path) -> None:
    """Say so many tokens as are asked for -> (seconds by the clock, by the processor, tokens); end with the memory."""
    side = SIDES[name](settings, bundle)
    side.say(1)
    connection.send("ready")
    while tokens := connection.recv():
        wall, processor = time.perf_counter(), time.process_time()
        said = side.say(tokens)
        connection.send((time.perf_counter() - wall, time.process_time() - processor, said))
    connection.send(memory())


WATCH = (
    "import resource, subprocess, sys, time; start = time.perf_counter(); "
    "subprocess.run(sys.argv[1:], check=True, stdout=2); used = resource.getrusage(resource.RUSAGE_CHILDREN); "
    "print(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss)"
)


def watched(*command: object) -> str:
    """Run a command of im2sp; return its seconds by the clock and by the processor, and peak memory, in words."""
    whole = [sys.executable, "-c", WATCH, sys.executable, "-m", "im2sp", *map(str, command)]
    said = subprocess.run(whole, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-3:]
    seconds, processor, kilobytes = map(float, said)
    return f"{seconds:.1f} s ({processor:.1f} s by processor time), {kilobytes * 1024 / 1e9:.2f} GB at most"


def make_bundle(settings: Settings, precision: str) -> Path:
    """Convert the checkpoint by the command line."""
    work, bundle = settings.work, settings.work / precision
    more = ["--codebook", work / "codebook.ckpt"] if settings.reads_units else []
    more += ["--config", work / "config.json"] if settings.size == "small" else []  # else it is git-large
    vocoder = work / "vocoder" / "g_00500000"
    words = [work / "last.ckpt", "--vocoder", vocoder, "--precision", precision, *more, "-o", bundle]
    took = watched("convert", "im2sp", *words)
    size = sum(path.stat().st_size for path in bundle.iterdir())
    print(f"{precision}: converted in {took}; {size / 1e6:,.0f} MB on disk", flush=True)
    return bundle


def speak_and_score(settings: Settings, bundle: Path) -> None:
    """Speak about the photo and score that by the command line; the figures of random weights mean nothing."""
    work, model = settings.work, ["--model", bundle, "--threads", settings.threads]
    source, said, scored = settings.photo, work / "said", work / "scored"
    if settings.reads_units:
        source = work / f"{bundle.name}.parquet"
        print(f"  im2sp tokenize: {watched('tokenize', settings.photo, '-o', source, *model)}")
    took = watched("caption", source, "-o", said, *SAMPLED, *model)
    units = len(json.loads((said / "captions.jsonl").read_text())["units"])
    print(f"  im2sp caption: {units} units, start to wav {took}", flush=True)
    images = [{"filename": "photo.png", "split": "test", "sentences": [{"raw": "A dog runs."}, {"raw": "The dog."}]}]
    captions = work / "dataset_photos.json"
    captions.write_text(json.dumps({"images": images}))
    more = ["--split", "test", "--strict", "--threads", settings.threads, "-o", scored]
    print(f"  im2sp evaluate: {watched('evaluate', bundle, captions, *more)}", flush=True)
    shutil.rmtree(said)
    shutil.rmtree(scored)


def compare(settings: Settings, bundle: Path, rounds: int) -> None:
    """Run both sides in turns; print medians, ratios and how many tokens agree."""
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in SIDES}
    said: dict[str, list[int]] = {}
    with ExitStack() as stack:
        sides: dict[str, Connection] = {}
        for name in SIDES:
            sides[name] = stack.enter_context(worker(say, name, settings, bundle))
            sides[name].recv()
            if settings.reads_units and name == "im2sp":
                with worker(count_image_units, settings) as counter:  # of memory that is not that of the sides
                    print(f"  {counter.recv()} image units are those of transformers", flush=True)
        for _ in range(rounds):
            for name, side in sides.items():
                side.send(1)
                first, first_processor, _ = side.recv()
                side.send(settings.tokens)
                whole, processor, said[name] = side.recv()
                rows[name].append((first, first_processor, whole - first, processor - first_processor))
        for name, side in sides.items():
            side.send(0)
            first, first_processor, rest, processor = map(statistics.median, zip(*rows[name], strict=True))
            steps = max(1, settings.tokens - 1)
            print(
                f"  {name}: {steps / rest:.1f} tokens/s ({steps / processor:.1f} by processor time), first unit after "
                f"{first:.2f} s ({first_processor:.2f} s), {side.recv() / 1e9:.2f} GB at most"
            )
    ours, theirs = rows.values()
    ratios = [
        statistics.median(slow / fast for slow, fast in zip(*pair, strict=True))
        for pair in zip(zip(*theirs, strict=True), zip(*ours, strict=True), strict=True)
    ]
    print(f"  transformers takes {ratios[2]:.2f} times as long for a token ({ratios[3]:.2f} by processor time)")
    pairs = enumerate(zip(*said.values(), strict=True))
    same = next((index for index, (one, other) in pairs if one != other), settings.tokens)
    print(f"  the first {same} of {settings.tokens} tokens are those of transformers", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="large")
    parser.add_argument("--input", choices=["photos", "units"], default="photos")
    precisions = ["fp32", "fp16", "int8"]
    parser.add_argument("--precisions", nargs="+", choices=precisions, default=precisions)
    for name, value in (("tokens", 64), ("beam", 1), ("threads", 1), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=positive, default=value)
    parser.add_argument("--work", type=Path, help="folder for the files")
    given = parser.parse_args()
    with sentences(), require_extra("train"):
        import transformers  # noqa: F401
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(given.threads)
    if given.work:
        given.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        settings = Settings(Path(folder), given.size, given.input == "units", given.tokens, given.beam, given.threads)
        noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((320, 240)).save(settings.photo)
        with worker(write_checkpoints, settings) as builder:  # so that its memory is gone afterwards
            millions = builder.recv() / 1e6
        how = f"beam {given.beam}, {given.threads} thread(s), load of the machine {os.getloadavg()[0]:.1f}"
        print(f"Im2Sp of {given.input}, {millions:.0f} million parameters; {given.tokens} tokens, {how}", flush=True)
        for precision in given.precisions:
            bundle = make_bundle(settings, precision)
            speak_and_score(settings, bundle)
            compare(settings, bundle, given.rounds)
            shutil.rmtree(bundle)


if __name__ == "__main__":
    main()
