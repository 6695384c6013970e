"""The stages of a recipe by name, each from its folders to its folders, and the photos that they see."""

from __future__ import annotations

from im2sp.train.bundle_pipeline import calibrate as calibrate
from im2sp.train.bundle_pipeline import evaluate as evaluate
from im2sp.train.bundle_pipeline import export as export
from im2sp.train.image_pipeline import encode as encode
from im2sp.train.image_pipeline import image_tokenizer as image_tokenizer
from im2sp.train.image_pipeline import photos as photos
from im2sp.train.image_pipeline import semantic_units as semantic_units
from im2sp.train.image_pipeline import token_vit as token_vit
from im2sp.train.image_pipeline import unlabelled_photos as unlabelled_photos
from im2sp.train.translation_pipeline import adopt as adopt
from im2sp.train.translation_pipeline import distil as distil
from im2sp.train.translation_pipeline import pretrain as pretrain
from im2sp.train.translation_pipeline import reward as reward
from im2sp.train.translation_pipeline import reward_translator as reward_translator
from im2sp.train.translation_pipeline import translate as translate
from im2sp.train.translation_pipeline import tune as tune
from im2sp.train.voice_pipeline import hubert as hubert
from im2sp.train.voice_pipeline import pronounce as pronounce
from im2sp.train.voice_pipeline import resound as resound
from im2sp.train.voice_pipeline import speak as speak
from im2sp.train.voice_pipeline import units as units
from im2sp.train.voice_pipeline import vocoder as vocoder
