"""Recipe of a captioner: photos with captions and a voice -> bundle.

photos.py: image units and tagger. words.py: teachers, captioner. speech.py: vocabulary, and how its words are said.
bundle.py: bundle and its confidence.
`data` holds the folders flickr8k, coco, coco_unlabelled and imagenet_samples.
"""

from __future__ import annotations

from pathlib import Path

from im2sp.train.data.photo_corpora import read_photo_corpora
from im2sp.train.data.synthesis import PiperSynthesizer, SynthesisConfig, clean_text
from im2sp.train.data.tiny_photo_corpora import write_tiny_photo_corpora
from im2sp.train.lexicon.asr_feedback import AsrFeedbackConfig
from im2sp.train.lexicon.lexicon import PronunciationLexicon, words_of
from im2sp.train.lexicon.pronunciations import VocabularyOptions
from im2sp.train.models.image_backbone import BackboneConfig
from im2sp.train.models.image_units import ImageUnitsConfig
from im2sp.train.recipes.captioner.ablation import make_ablation
from im2sp.train.recipes.captioner.bundle import make_bundle, make_calibrated
from im2sp.train.recipes.captioner.options import (
    ABLATION,
    BACKBONE,
    BUNDLE,
    CALIBRATED,
    CAPTIONER,
    DISTILLED,
    FEATURES,
    FEEDBACK,
    MAPS,
    PSEUDO,
    REPORT,
    TAGGER,
    TEACHERS,
    UNITS,
    VOCABULARY,
    AblationOptions,
    DecoderOptions,
    Recipe,
    captions_of,
)
from im2sp.train.recipes.captioner.photos import make_backbone, make_features, make_maps, make_tagger, make_units
from im2sp.train.recipes.captioner.speech import (
    make_distilled,
    make_feedback,
    make_vocabulary,
)
from im2sp.train.recipes.captioner.words import make_captioner, make_pseudo_labels, make_report, make_teachers
from im2sp.train.stages import Stage
from im2sp.train.tasks.backbone_tuning import BackboneTuning
from im2sp.train.tasks.captioner import CaptionerTraining
from im2sp.train.tasks.tagger import TaggerTraining

STAGES = [
    Stage[Recipe]("maps", MAPS, make_maps),
    Stage[Recipe]("backbone", BACKBONE, make_backbone, (MAPS,), distributed=True),
    Stage[Recipe]("features", FEATURES, make_features, (MAPS, BACKBONE)),
    Stage[Recipe]("image_units", UNITS, make_units, (FEATURES,)),
    Stage[Recipe]("tagger", TAGGER, make_tagger, (UNITS,)),
    Stage[Recipe]("pseudo_labels", PSEUDO, make_pseudo_labels, (UNITS, TAGGER)),
    Stage[Recipe]("teachers", TEACHERS, make_teachers, (UNITS, TAGGER, PSEUDO)),
    Stage[Recipe]("distilled", DISTILLED, make_distilled, (TEACHERS, UNITS)),
    Stage[Recipe]("text_captioner", CAPTIONER, make_captioner, (TEACHERS, DISTILLED), distributed=True),
    Stage[Recipe]("report", REPORT, make_report, (TEACHERS, CAPTIONER, UNITS)),
    Stage[Recipe]("vocabulary", VOCABULARY, make_vocabulary, (PSEUDO, DISTILLED, TAGGER)),
    Stage[Recipe](
        "asr_feedback",
        FEEDBACK,
        make_feedback,
        (VOCABULARY, DISTILLED),
        lambda recipe: recipe.asr_feedback.sentences > 0,
    ),
    Stage[Recipe](
        "ablation",
        ABLATION,
        make_ablation,
        (FEATURES, UNITS, PSEUDO, VOCABULARY),
        lambda recipe: recipe.ablation.seeds > 0,
        distributed=True,
    ),
    Stage[Recipe]("bundle", BUNDLE, make_bundle, (CAPTIONER, BACKBONE, VOCABULARY, FEEDBACK)),
    Stage[Recipe](
        "calibration", CALIBRATED, make_calibrated, (BUNDLE, VOCABULARY), lambda recipe: recipe.calibration_photos > 0
    ),
]


def smoke(folder: Path) -> Recipe:
    """Write generated photos in the layouts of the corpora; return a recipe that trains on them in seconds."""
    write_tiny_photo_corpora(folder / "data", folder / "lists")
    lexicon = folder / "lists" / "lexicon.parquet"
    _tiny_lexicon(folder / "data", folder / "lists").save(lexicon)
    chosen = folder / "lists" / "asr_feedback.parquet"
    PronunciationLexicon({(None, "red", None): (1, 2)}).save(chosen)
    grid = 2
    return Recipe(
        recipe="captioner",
        data=folder / "data",
        runs=folder / "runs",
        lists=folder / "lists",
        views=("whole", "crop1"),
        backbone=BackboneConfig("efficientnet-lite0", image_size=64, grid=grid),
        backbone_tuning=BackboneTuning(steps=3, photos=4, labelled=2, min_photos=2, log_every=1),
        image_units=ImageUnitsConfig(cells=grid * grid, width=8, levels=2, size=8),
        tagger=TaggerTraining(steps=4, photos=4, labelled=2, min_photos=2, tags=3),
        decoder=DecoderOptions(width=16, layers=1, heads=2, feed_forward=32),
        teachers=2,
        teacher=CaptionerTraining(steps=4, warm_up=1, photos=4, log_every=2),
        captioner=CaptionerTraining(steps=2, warm_up=1, photos=4, log_every=2, tag_swap=0.0),
        lexicon=lexicon,
        pronunciations=chosen,
        asr_feedback=AsrFeedbackConfig(sentences=2, candidates=1),
        vocabulary=VocabularyOptions(ways=20, min_gain=1),
        ablation=AblationOptions(
            seeds=1,
            text=CaptionerTraining(steps=1, photos=4, tag_swap=0.0),
            units=CaptionerTraining(steps=1, photos=4, tag_swap=0.0),
        ),
        beam=2,
        calibration_photos=0,  # captions of so short a training are all wrong
    )


def _tiny_lexicon(data: Path, lists: Path) -> PronunciationLexicon:
    """Say each word of the captions by its number."""
    voice, captions = PiperSynthesizer(SynthesisConfig()), captions_of(read_photo_corpora(data, lists))
    texts = [clean_text(text) for said in captions.values() for text in said]
    words = sorted({word for text in texts for word in words_of(voice.phones(text))})
    return PronunciationLexicon({(None, word, None): (number, number + 1) for number, word in enumerate(words)})
