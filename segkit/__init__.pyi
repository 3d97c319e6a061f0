# For type checkers: segkit/__init__.py imports on first use.
from segkit.config.compose import compose_settings as compose_settings
from segkit.data.label_map import LabelMap as LabelMap
from segkit.evaluation import evaluate as evaluate
from segkit.evaluation.masks import score_masks as score_masks
from segkit.inference import Protocol as Protocol
from segkit.inference.predictor import Predictor as Predictor
from segkit.inference.predictor import load as load
from segkit.training.builders import build_dataset as build_dataset
from segkit.training.builders import build_loss as build_loss
from segkit.training.builders import build_model as build_model
from segkit.training.builders import save as save
from segkit.training.builders import training_batches as training_batches
from segkit.types import Batch as Batch
from segkit.types import Logits as Logits
from segkit.types import Sample as Sample

__version__: str
