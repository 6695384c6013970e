"""Going on from a finished bundle: its translator, its subwords, its sentences, its voice."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from im2sp import Captioner
from im2sp.bundle import SPECIAL_TOKENS, Bundle
from im2sp.errors import Im2SpError
from im2sp.speech.units import remove_repeats
from im2sp.train import pipeline, voice_pipeline
from im2sp.train.cli import stages_of
from im2sp.train.convert.finished import read_speech_encoder, read_translator, read_voice
from im2sp.train.data.flickr8k import PHOTO_FOLDER
from im2sp.train.data.pronunciations import Pronunciations
from im2sp.train.data.speech_shards import as_floats, read_shards
from im2sp.train.data.unit_subwords import UnitSubwords
from im2sp.train.data.unit_table import read_unit_tables
from im2sp.train.export import SPEECH_GRAPHS
from im2sp.train.models.git import DecoderStep, GitDecoder
from im2sp.train.models.speech_encoder import SpeechEncoder, whole_frames
from im2sp.train.models.unit_vocoder import (
    DurationPredictor,
    UnitVocoder,
    VocoderConfig,
    load_vocoder,
    save_vocoder,
    say,
)
from im2sp.train.recipe import SEMANTIC, Recipe
from im2sp.train.stages.adopt import adopt
from im2sp.train.stages.pronounce import TABLE
from im2sp.train.stages.revoice import with_units
from tests.train.tiny_run import SPEECH_UNITS, write_tiny_run

PHOTO = Path(__file__).parents[2] / "examples" / "chelsea.jpg"


def test_subwords_of_a_table_encode_as_those_it_is_of() -> None:
    random = np.random.default_rng(0)
    sentences = [random.zipf(1.5, 40).clip(max=12) - 1 for _ in range(200)]
    learnt = UnitSubwords.train(sentences, 12, 90)
    again = UnitSubwords.from_table(learnt.table(), 12)
    assert again.table() == learnt.table()
    assert [again.encode(sentence) for sentence in sentences] == [learnt.encode(sentence) for sentence in sentences]


def test_a_table_of_other_things_makes_no_subwords() -> None:
    with pytest.raises(Im2SpError, match="subword 3 of the table was not made of two others"):
        UnitSubwords.from_table([[0], [1], [2], [0, 1, 2]], 3)


def test_the_translator_of_the_packaged_bundle_is_the_one_that_its_graphs_run() -> None:
    captioner = Captioner.from_pretrained(threads=1)
    translator = read_translator(captioner.bundle)
    prefix = captioner.encode(PHOTO)
    said = captioner.decode(prefix)
    keys, values = (torch.from_numpy(part) for part in (prefix.keys, prefix.values))
    past, score = torch.zeros(2, len(keys), 1, keys.shape[2], 0, keys.shape[4]), 0.0
    tokens = [captioner.vocabulary.specials.bos, *said.tokens, captioner.vocabulary.specials.eos]
    with torch.inference_mode():
        for place, (token, following) in enumerate(pairwise(tokens)):
            step = DecoderStep(translator)(torch.tensor([token]), torch.tensor([place]), keys, values, past[0], past[1])
            score += float(step[0].log_softmax(-1)[0, following])
            past = torch.stack([step[1], step[2]])
    assert score / (len(tokens) - 1) == pytest.approx(said.score, abs=1e-3)


def test_the_voice_of_the_packaged_bundle_speaks_and_hears_as_its_graphs_do() -> None:
    captioner = Captioner.from_pretrained(threads=1)
    said = captioner.speak(captioner.bundle.config.confidence.unsure_units)  # type: ignore[union-attr]
    vocoder, durations = read_voice(captioner.bundle)
    again = say(vocoder, durations, said.units)
    assert len(again) == len(said.waveform)
    assert np.abs(again - said.waveform).mean() < 0.02 * np.abs(said.waveform).mean()

    encoder = read_speech_encoder(captioner.bundle)
    with torch.inference_mode():
        heard = encoder(torch.from_numpy(said.waveform)[None])[0].numpy()
    assert (heard == captioner.units(said.waveform)).mean() > 0.98
    assert encoder.units == captioner.bundle.config.vocabulary.units


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A run with a bundle."""
    written = write_tiny_run(tmp_path_factory.mktemp("run"))
    sections = {name: section for name, section in written.sections.items() if name != "tune"}
    recipe = replace(written, unlabelled=None, sections=sections)
    translator, encoder = GitDecoder.load(recipe.translator()), SpeechEncoder.load(recipe.speech_encoder)
    vocoder, durations = load_vocoder(recipe.vocoder)
    with torch.no_grad():
        for model in (translator, encoder.hubert, vocoder, durations):
            for weight in model.parameters():  # of what is trained, no two are the same
                if weight.dim() == 1:
                    weight.add_(torch.randn_like(weight) / 10)
    translator.save(recipe.translator())
    encoder.save(recipe.speech_encoder)
    save_vocoder(vocoder, durations, recipe.vocoder)
    pipeline.encode(recipe)
    pipeline.export(recipe)
    return recipe


def test_a_run_goes_on_from_a_bundle(run: Recipe, tmp_path: Path) -> None:
    recipe = replace(run, runs=tmp_path / "runs", parent=str(run.bundle))
    recipe.runs.mkdir()
    (recipe.runs / "features").symlink_to(run.runs / "features")
    pipeline.adopt(recipe)

    trained, read = GitDecoder.load(run.translator()), GitDecoder.load(recipe.translator())
    assert read.config == trained.config
    for name, wanted in trained.state_dict().items():
        rounding = wanted.abs().amax() / 127 / 2
        torch.testing.assert_close(read.state_dict()[name], wanted, rtol=0, atol=float(rounding) * 1.01)

    captioner = Captioner(Bundle.load(run.bundle), threads=1)
    told = {row.image_id: row for row in read_unit_tables(recipe.units)}
    assert {row.split for row in told.values()} == {"train", "dev"}
    subwords = UnitSubwords.load(recipe.subword_file, captioner.bundle.config.vocabulary.units)
    for image_id, row in list(told.items())[:3]:
        said = captioner.caption(run.data / PHOTO_FOLDER / f"{image_id}.jpg")
        units, durations = remove_repeats(row.speech_units)
        np.testing.assert_array_equal(units, said.units)
        np.testing.assert_array_equal(durations, said.durations)
        np.testing.assert_array_equal(np.array(subwords.encode(units))[1:-1], captioner.vocabulary.encode(units))
        assert len(subwords.encode(units)) <= len(said.tokens) + SPECIAL_TOKENS

    before = {path: path.stat().st_mtime_ns for path in recipe.runs.rglob("*.*")}
    pipeline.adopt(recipe)  # it is there: nothing is said again
    assert {path: path.stat().st_mtime_ns for path in recipe.runs.rglob("*.*")} == before

    pipeline.semantic_units(recipe)
    pipeline.translate(recipe, seen=SEMANTIC)
    pipeline.export(recipe, seen=SEMANTIC)
    mine = Bundle.load(recipe.bundle_of(SEMANTIC))
    for graph in SPEECH_GRAPHS:
        assert mine.checksums[f"{graph}.onnx"] == captioner.bundle.checksums[f"{graph}.onnx"]
    assert mine.config.training["said_by"] == "smoke 0.1.0, its parent"
    assert Captioner(mine, threads=1).caption(PHOTO).units.max() < mine.config.vocabulary.units


def _taught(run: Recipe, runs: Path, **more: dict[str, Any]) -> Recipe:
    """A run that goes on from the bundle of another, through all stages but the evaluation."""
    sections = {name: section for name, section in run.sections.items() if name != "reward"}
    sections |= {"distil": {"beam": 2, "longest": 6}} | more
    recipe = replace(run, runs=runs, parent=str(run.bundle), sections=sections)
    recipe.runs.mkdir()
    (recipe.runs / "features").symlink_to(run.runs / "features")
    for stage in stages_of(recipe):
        if stage != "evaluate":
            getattr(pipeline, stage.replace("-", "_"))(recipe)
    return recipe


def test_a_parent_gets_better_words_and_keeps_its_voice(run: Recipe, tmp_path: Path) -> None:
    learning = {"steps": 1, "warm_up": 1, "learning_rate": 1e-6, "photos": 4, "distilled_photos": 4}
    recipe = _taught(run, tmp_path / "runs", translate=learning | {"distilled_from": 0})

    assert {path.stem for path in recipe.speech.glob("*.parquet")} == {"dev-0000", "distilled-0000"}
    parent, mine = Bundle.load(run.bundle), Bundle.load(recipe.bundle)
    for graph in SPEECH_GRAPHS:
        assert mine.checksums[f"{graph}.onnx"] == parent.checksums[f"{graph}.onnx"]
    assert mine.config.vocabulary == parent.config.vocabulary
    training = mine.config.training
    assert training["started_from"] == "smoke 0.1.0"
    assert training["of_these_written_by_the_text_captioner"] == training["spoken_captions"]

    captioner = Captioner(parent, threads=1)
    spoken = next(read_shards(recipe.speech, "dev", 1))
    heard = {row.caption_id: row.speech_units for row in read_unit_tables(recipe.units, "dev")}[spoken.caption_id]
    np.testing.assert_array_equal(heard, captioner.units(as_floats(whole_frames(spoken.waveform))))
    before, after = GitDecoder.load(recipe.adopted).state_dict(), GitDecoder.load(recipe.translator()).state_dict()
    for name, weight in after.items():  # words and all: one small step away
        torch.testing.assert_close(weight, before[name], rtol=0, atol=1e-5)


def test_a_parent_gets_words_in_regular_units(run: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learning = {"steps": 2, "warm_up": 1, "photos": 4, "distilled_photos": 4, "distilled_from": 0}
    recipe = _taught(
        run,
        tmp_path / "runs",
        translate=learning,
        pronunciations={"spoken": 8, "heard": 3},
        reward_translator={"steps": 2, "photos": 4, "samples": 2, "longest": 6, "cross_entropy": 0.5, "described": 0.5},
    )

    spoken, unspoken = (list(read_unit_tables(recipe.lessons, "train", f"distilled-{name}")) for name in ("0*", "un*"))
    assert len(spoken) == 8
    assert unspoken
    said: dict[str, set[tuple[int, ...]]] = {}
    for row in (*spoken, *unspoken):
        said.setdefault(row.text, set()).add(tuple(row.speech_units.tolist()))
    assert all(len(ways) == 1 for ways in said.values())  # of one sentence

    parent, mine = Bundle.load(run.bundle), Bundle.load(recipe.bundle)
    for graph in SPEECH_GRAPHS:
        assert mine.checksums[f"{graph}.onnx"] == parent.checksums[f"{graph}.onnx"]
    training = mine.config.training
    assert training["spoken_captions"] == len(spoken)
    assert training["sentences_put_together_from_these"] == len(spoken) + len(unspoken)
    assert training["voice_of"] == "smoke 0.1.0"
    assert not recipe.adopted.exists()  # the words are others
    learnt, rewarded = GitDecoder.load(recipe.translator()), GitDecoder.load(recipe.rewarded_translator)
    assert not torch.equal(learnt.word_embeddings.weight, rewarded.word_embeddings.weight)
    read_back = read_translator(mine).word_embeddings.weight
    torch.testing.assert_close(read_back, rewarded.word_embeddings.weight, rtol=0, atol=0.01)

    # The same translator in another run, whose voice says every word as the one before does.
    again = replace(recipe, runs=tmp_path / "again")
    again.lessons.mkdir(parents=True)
    for path in (*recipe.lessons.glob("*.parquet"), recipe.lessons / TABLE):
        (again.lessons / path.name).symlink_to(path)
    (again.runs / "features").symlink_to(run.runs / "features")
    pipeline.resound(again, recipe.runs)
    again.rewarded_translator.symlink_to(again.translator())
    pipeline.export(again)
    resounded = Bundle.load(again.bundle)
    assert resounded.config.vocabulary.subwords == mine.config.vocabulary.subwords
    vocabulary, table = Captioner(resounded, threads=1).vocabulary, Pronunciations.load(recipe.lessons / TABLE)
    assert len(table)
    for row in unspoken:
        units = remove_repeats(row.speech_units)[0]
        np.testing.assert_array_equal(vocabulary.decode(vocabulary.encode(units)), units)

    # Once more, after listening to what it says.
    sections = recipe.sections | {"resound": {"heard": 3, "photos": 6, "beam": 2}}
    listening = replace(again, runs=tmp_path / "listening", sections=sections)
    listening.lessons.mkdir(parents=True)
    for path in (*recipe.lessons.glob("*.parquet"), recipe.lessons / TABLE):
        (listening.lessons / path.name).symlink_to(path)
    for name in ("speech", "units"):
        (listening.runs / name).symlink_to(recipe.runs / name)
    pipeline.resound(listening, recipe.runs)
    assert len(Pronunciations.load(listening.lessons / "listened.table")) == len(table)
    assert listening.said.is_file()

    with pytest.raises(Im2SpError, match="learned other speech units than its voice has"):
        adopt(resounded, tmp_path / "adopted", tmp_path / "subwords.json")
    monkeypatch.setattr(voice_pipeline, "unit_count", lambda _: 30)
    with pytest.raises(Im2SpError, match="learned 20 speech units, this voice has 30"):
        pipeline.resound(again, recipe.runs)


def test_a_parent_gets_finer_units_and_its_voice_learns_on_with_them(run: Recipe, tmp_path: Path) -> None:
    learning = {"steps": 2, "warm_up": 1, "photos": 4, "distilled_photos": 4, "distilled_from": 0}
    voice = {"steps": 2, "adversarial_from": 2, "batch": 2, "segment_frames": 16, "duration_steps": 2, "warm_up": 1}
    recipe = _taught(
        run,
        tmp_path / "runs",
        translate=learning,
        pronunciations={"heard": 3},
        vocoder=voice,
        revoice={"captions": 2, "clusters": 30, "minutes": 0.2},
    )
    assert {path.stem for path in recipe.speech.glob("*.parquet")} == {"dev-0000", "train-0000", "distilled-0000"}
    parent, mine = Bundle.load(run.bundle), Bundle.load(recipe.bundle)
    assert (parent.config.vocabulary.units, mine.config.vocabulary.units) == (SPEECH_UNITS, 30)
    assert mine.config.training["voice_started_from"] == "smoke 0.1.0"

    before, after = (SpeechEncoder.load(part.speech_encoder) for part in (run, recipe))
    rounding = max(float(value.abs().amax()) for value in before.hubert.state_dict().values()) / 127
    for name, value in before.hubert.state_dict().items():
        if name == "masked_spec_embed":  # for training alone, so no graph has it
            continue
        torch.testing.assert_close(after.hubert.state_dict()[name], value, rtol=0, atol=rounding)
    assert (recipe.voice_of_lessons / "durations.pt").is_file()  # of regular sentences, too
    captioner = Captioner(mine, threads=1)
    spoken = next(read_shards(recipe.speech, "dev", 1))
    heard = {row.caption_id: row.speech_units for row in read_unit_tables(recipe.units, "dev")}[spoken.caption_id]
    assert (heard == captioner.units(as_floats(whole_frames(spoken.waveform)))).mean() > 0.9
    assert captioner.caption(PHOTO).units.max() < 30
    made = {path: path.stat().st_mtime_ns for path in recipe.hubert.rglob("*.*")}
    pipeline.hubert(recipe)
    assert {path: path.stat().st_mtime_ns for path in recipe.hubert.rglob("*.*")} == made
    with pytest.raises(Im2SpError, match="not a \\[hifigan\\]: leave out one"):
        pipeline.pronounce(replace(recipe, runs=tmp_path / "other", sections=recipe.sections | {"hifigan": {}}))
    sections = recipe.sections | {"hifigan": {}, "resound": {"heard": 2}}
    with pytest.raises(Im2SpError, match=r"\[resound\] with `heard` .* not a \[hifigan\]: leave out one"):
        pipeline.resound(replace(recipe, sections=sections), recipe.runs)


def test_new_units_are_embedded_where_the_old_ones_of_their_frames_were() -> None:
    sizes = VocoderConfig(
        units=3, width=8, feed_forward=8, slow_blocks=1, fast_blocks=1, duration_width=8, duration_blocks=1
    )
    old = UnitVocoder(sizes).eval(), DurationPredictor(sizes).eval()
    together = np.array([[5, 0, 0], [0, 4, 0], [0, 0, 3], [0, 2, 2]])
    vocoder, durations = with_units(*old, together)
    vocoder.eval()
    durations.eval()
    assert vocoder.config.units == 4
    units = torch.tensor([[0, 1, 2, 1]])
    torch.testing.assert_close(vocoder(units), old[0](units))
    torch.testing.assert_close(durations(units), old[1](units))
    weights = old[0].embedding.weight
    torch.testing.assert_close(vocoder.embedding.weight[3], weights[1:].mean(0))


def test_a_parent_that_sees_other_pictures_is_said(run: Recipe, tmp_path: Path) -> None:
    with pytest.raises(Im2SpError, match="make \\[backbone\\] that of the bundle"):
        pipeline.adopt(replace(run, parent="default"))
    with pytest.raises(Im2SpError, match="name one as its `parent`"):
        pipeline.adopt(run)
