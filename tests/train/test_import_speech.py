"""Recordings of people become spoken captions that the later stages learn from, without a text or a phone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

from im2sp.errors import Im2SpError
from im2sp.train.cli import app
from im2sp.train.data.flickr8k import PHOTO_FOLDER, read_captions, read_split
from im2sp.train.data.recordings import read_recordings
from im2sp.train.data.speech_shards import SpokenCaption, read_shards
from im2sp.train.data.unit_table import read_unit_tables
from im2sp.train.evaluate.unit_quality import frame_phones, unit_quality
from im2sp.train.stages.hubert import HubertStage, train_speech_encoder
from im2sp.train.stages.import_speech import Imported, ImportOptions, import_speech
from im2sp.train.stages.units import extract_units, learn_subwords, trained_hearing

PHOTOS = ("beach", "cat", "tree")
SECONDS = 1.2


def buzz(path: Path, rate: int = 44_100, seconds: float = SECONDS, channels: int = 1, level: float = 0.4) -> None:
    """Something with a pitch that moves: not speech, but not one sound either."""
    time = np.arange(int(rate * seconds)) / rate
    wave = level * np.sign(np.sin(2 * np.pi * (120 + 40 * np.sin(5 * time)) * time)) * np.sin(9 * time) ** 2
    soundfile.write(path, np.repeat(wave[:, None], channels, 1), rate)


class Project:
    """Photos, recordings and a table of both, as a user has them."""

    def __init__(self, folder: Path) -> None:
        self.data, self.speech, self.recordings = folder / "data", folder / "runs" / "speech", folder / "recordings"
        self.table = folder / "recordings.csv"
        (self.data / PHOTO_FOLDER).mkdir(parents=True)
        self.recordings.mkdir()
        for name in PHOTOS:
            Image.new("RGB", (32, 32), "grey").save(self.data / PHOTO_FOLDER / f"{name}.jpg")
            for take in (0, 1):
                buzz(self.recordings / f"{name}-{take}.wav", rate=(44_100, 8_000)[take], channels=1 + take)
        self.rows = [{"image_id": name, "wav": f"{name}-{take}.wav"} for name in PHOTOS for take in (0, 1)]
        self.write()

    def write(self) -> None:
        with self.table.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["image_id", "wav", "text"])
            writer.writeheader()
            writer.writerows(self.rows)

    def run(self, **options: object) -> Imported:
        return import_speech(self.table, self.recordings, self.data, self.speech, ImportOptions(**options))  # type: ignore[arg-type]

    def clips(self, split: str | None = None) -> dict[str, SpokenCaption]:
        return {clip.caption_id: clip for clip in read_shards(self.speech, split)}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_recordings_become_shards_at_16_khz_with_photos_of_their_own_split(project: Project) -> None:
    done = project.run(speaker="me")
    assert done == Imported(6, ())
    assert set(project.clips()) == {f"{name}_{take}" for name in PHOTOS for take in (0, 1)}
    for clip in project.clips().values():
        assert len(clip.waveform) == pytest.approx(SECONDS * 16_000, abs=2)
        assert np.abs(clip.waveform).max() > 5_000
        assert (clip.speaker, clip.text, clip.phones) == ("me", "", [])
    held_out = read_split(project.data, "dev")
    assert len(held_out) == 1
    assert sorted(held_out + read_split(project.data, "train")) == list(PHOTOS)
    assert {clip.image_id for clip in project.clips("dev").values()} == set(held_out)


def test_what_cannot_be_used_is_said_and_counted_and_gets_in_when_it_is_mended(project: Project) -> None:
    (project.recordings / "cat-0.wav").write_bytes(b"RIFF but no sound")
    (project.recordings / "cat-1.wav").unlink()
    buzz(project.recordings / "tree-0.wav", level=0.0)
    buzz(project.recordings / "beach-1.wav", rate=8_000, seconds=31)
    done = project.run(shard_size=2)
    assert done.clips == 2
    said = "\n".join(done.problems)
    for part in ("cat-0.wav: is not a recording", "cat-1.wav: cannot be read", "tree-0.wav: is silent", "lasts 31.0 s"):
        assert part in said
    untouched = {path: path.stat().st_mtime_ns for path in project.speech.glob("*.parquet")}
    for name in ("cat-0", "cat-1", "tree-0", "beach-1"):
        buzz(project.recordings / f"{name}.wav")
    assert project.run(shard_size=2) == Imported(6, ())
    assert len(project.clips()) == 6
    assert not list(project.speech.glob("*.problems.txt"))
    made = {path: path.stat().st_mtime_ns for path in project.speech.glob("*.parquet")}
    assert untouched.keys() <= made.keys()
    for path in project.recordings.iterdir():
        path.unlink()
    assert project.run(shard_size=2) == Imported(6, ())  # a finished import reads nothing again
    assert made == {path: path.stat().st_mtime_ns for path in project.speech.glob("*.parquet")}


def test_texts_go_along_for_all_or_none(project: Project) -> None:
    project.rows[0]["text"] = "A  wide\tbeach ."
    project.write()
    with pytest.raises(Im2SpError, match="text for 1 of 6"):
        project.run()
    for row in project.rows:
        row["text"] = f"A  wide\t{row['image_id']} ."
    project.write()
    project.run()
    assert project.clips()["beach_1"].text == "A wide beach ."
    captions = read_captions(project.data)
    assert {caption.caption_id: caption.split for caption in captions} == {
        clip.caption_id: clip.split for clip in project.clips().values()
    }


def test_split_files_of_the_user_are_kept(project: Project) -> None:
    (project.data / "Flickr_8k.trainImages.txt").write_text("cat.jpg\nbeach.jpg\n")
    (project.data / "Flickr_8k.devImages.txt").write_text("other.jpg\n")
    with pytest.raises(Im2SpError, match="1 photos are in neither split, the first is 'tree'"):
        project.run()
    (project.data / "Flickr_8k.devImages.txt").write_text("other.jpg\ntree.jpg\n")
    project.run()
    assert {clip.image_id for clip in project.clips("dev").values()} == {"tree"}


def test_half_a_set_of_split_files_is_not_overwritten(project: Project) -> None:
    (project.data / "Flickr_8k.devImages.txt").write_text("other.jpg\n")
    with pytest.raises(Im2SpError, match="says something else"):
        project.run()
    assert (project.data / "Flickr_8k.devImages.txt").read_text() == "other.jpg\n"


def test_missing_photos_are_said_before_anything_is_written(project: Project) -> None:
    (project.data / PHOTO_FOLDER / "cat.jpg").unlink()
    with pytest.raises(Im2SpError, match=r"1 of 3 photos are missing, the first is .*cat\.jpg"):
        project.run()
    assert not project.speech.exists()


def test_a_folder_is_never_mixed(project: Project) -> None:
    project.run()
    project.rows[0]["wav"] = "cat-0.wav"
    project.write()
    with pytest.raises(Im2SpError, match="another origin, table or options"):
        project.run()


def test_json_lines_say_the_same_as_csv(project: Project) -> None:
    lines = project.table.with_suffix(".jsonl")
    lines.write_text("\n".join(json.dumps(row) for row in project.rows) + "\n\n")
    assert read_recordings(lines) == read_recordings(project.table)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("t.csv", "image_id,wav\n", "names no recording"),
        ("t.csv", "image_id,sound\ncat,x.wav\n", "line 2: the column 'sound' is not known"),
        ("t.csv", "image_id,wav\ncat,\n", "line 2: wav is missing"),
        ("t.csv", "image_id,wav\ncat,x.wav,more\n", "line 2: has more cells"),
        ("t.csv", 'image_id,wav\ncat,"x.wav" y\n', "after line 1: is not CSV"),
        ("t.csv", "image_id,wav\n../cat,x.wav\n", "line 2: '../cat' cannot be the name"),
        ("t.csv", "image_id,wav\ncat,../x.wav\n", "line 2: '../x.wav' is not a path inside"),
        ("t.csv", "image_id,wav\ncat,/etc/x.wav\n", "is not a path inside"),
        ("t.csv", "image_id,wav\ncat,x.wav\ncat,a\x00b.wav\n", "line 3: .* is not a path inside"),
        ("t.jsonl", '{"image_id": "cat"\n', "line 1: is not JSON"),
        ("t.jsonl", "[" * 100_000, "line 1: is not JSON"),
        ("t.jsonl", '["cat", "x.wav"]', "line 1: is not an object"),
        ("t.jsonl", '{"image_id": 3, "wav": "x.wav"}', "line 1: image_id is not a text"),
        ("t.xlsx", "", r"is a \.csv or a \.jsonl file"),
    ],
)
def test_wrong_tables_are_one_sentence(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(Im2SpError, match=sentence):
        read_recordings(tmp_path / name)


def test_tables_that_cannot_be_read_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(Im2SpError, match="there is no such file"):
        read_recordings(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes("image_id,wav\nkäse,x.wav\n".encode("latin-1"))
    with pytest.raises(Im2SpError, match="cannot be read"):
        read_recordings(tmp_path / "latin.csv")


def test_command_tells_what_it_did_and_fails_when_something_was_left_out(project: Project, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'data = "{project.data}"\nruns = "{tmp_path / "runs"}"\n')
    words = ["import-speech", str(project.table), "--recordings", str(project.recordings), "--recipe", str(recipe)]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stdout) == (0, f"{project.speech}: 6 recordings imported, 0 left out\n")
    again = CliRunner().invoke(app, [*words, "--longest", "1", "--runs", str(tmp_path / "other")])
    assert again.exit_code == 1
    assert again.stdout == f"{tmp_path / 'other' / 'speech'}: 0 recordings imported, 6 left out\n"


def test_units_are_learnt_from_recordings_without_phones(project: Project, tmp_path: Path) -> None:
    project.run()
    options = HubertStage(
        layers=2, width=64, first_clusters=8, clusters=12, target_clusters=12, iterations=(1, 1),
        batch_seconds=3, kmeans_minutes=0.1, probe_clips=2,
    )  # fmt: skip
    encoder = train_speech_encoder(project.speech, tmp_path / "hubert", options)
    extract_units(project.speech, trained_hearing(tmp_path / "hubert" / "speech_encoder"), tmp_path / "units")
    rows = read_unit_tables(tmp_path / "units")
    assert {row.caption_id for row in rows} == set(project.clips())
    assert all(len(row.speech_units) == len(project.clips()[row.caption_id].waveform) // 320 for row in rows)
    assert learn_subwords(tmp_path / "units", tmp_path / "subwords.json", encoder.units, 16)


def test_without_phones_no_phone_scores_are_claimed() -> None:
    units = np.array([0, 0, 1])
    quality = unit_quality([(units, frame_phones([], np.zeros(0, np.int32), 3))])
    assert (quality.phone_purity, quality.cluster_purity, quality.phone_information) == (0, 0, 0)
    assert quality.rate == pytest.approx(100 / 3)
