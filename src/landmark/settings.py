"""Every setting of a recipe, in groups, with one name, one default and one place; an unknown one is an error."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Sizes = Literal["XS", "XM", "S2", "M2", "L2"]
# fp32, or autocast to bf16 or fp16; `auto` is what the device computes fast.
Precision = Literal["auto", "fp32", "bf16", "fp16"]


def _absolute(value: str, *words: str) -> str:
    """A path is made absolute, so that it means the same from any folder; the words stay as they are."""
    return value if value in words else str(Path(value).expanduser().resolve())


def _address(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return value.rstrip("/")


Weights = Annotated[str, AfterValidator(lambda value: _absolute(value, "imagenet", "none"))]
# What step 01 starts from may also be what the recipe's bootstrap round trained.
FirstWeights = Annotated[str, AfterValidator(lambda value: _absolute(value, "imagenet", "none", "bootstrap"))]
DelfWeights = Annotated[str, AfterValidator(lambda value: _absolute(value, "bootstrap"))]


def weights_files(weights: str) -> dict[Path, str]:
    """The file behind a `weights` setting as a job's input, if it is one."""
    return {} if weights in ("imagenet", "none") else {Path(weights): "give the path of a file, imagenet, or none"}


class Settings(BaseModel):
    """A group of settings; unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Sample(Settings):
    """The rendered competition, for recipes that make their own data."""

    landmarks: Annotated[int, Field(ge=2)] = 24
    train_views: Positive = 14
    index_views: Positive = 6
    test_views: Positive = 4
    longest_side: Positive = 320


class Bucket(Settings):
    """Where `run.sh download` fetches Google Landmarks v2, or data of its layout.

    url: below it lie metadata/, ground_truth/, md5sum/<split>/ and <split>/images_NNN.tar. shards: how many tar
    files a split has, numbered from 000. connections: files fetched at a time. longest_side: larger photographs
    are shrunk to it as they are extracted.
    """

    url: Annotated[str, AfterValidator(_address)] = "https://s3.amazonaws.com/google-landmark"
    shards: dict[Literal["train", "index", "test"], Positive] = {"train": 500, "index": 100, "test": 20}
    connections: Positive = 8
    longest_side: Positive | None = None


class Kaggle(Settings):
    """What belongs to the recipe on Kaggle.

    title: of its notebook; a recipe file that gives none has its name in it. dataset: the data set (owner/name)
    with its photographs. competitions: the name of each task's competition, for download, notebook and upload.
    """

    title: Annotated[str, Field(min_length=5, max_length=50)] = "Landmark retrieval and recognition"
    dataset: Annotated[str, Field(pattern=r"^[^/ ]+/[^/ ]+$")] | None = None
    competitions: dict[Literal["retrieval", "recognition"], Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]] = {}


class Scales(Settings):
    """How images are fed to a network for descriptors.

    flip: the mirror image is described too, and counts as much. batch_size: images that a GPU is given at a time.
    precision: as of training. shard_images: a killed extraction loses at most so many images.
    """

    longest_side: Positive = 800
    scales: list[Annotated[float, Field(gt=0)]] = Field([0.75, 1.0, 1.25], min_length=1)
    flip: bool = False
    batch_size: Positive = 32
    precision: Precision = "auto"
    shard_images: Positive = 1024


class Representation(Scales):
    """The global descriptor that finds the neighbours for cleaning.

    weights: imagenet or a file with a backbone's weights (its pooled features are the descriptor), a model that
    step 02 saved, or `bootstrap`, the first model of the recipe's bootstrap round, whatever its backbone.
    """

    backbone: str = "tf_efficientnet_lite0"
    weights: FirstWeights = "imagenet"
    gem_p: Annotated[float, Field(gt=0)] = 3.0


class LocalFeatureSettings(Settings):
    """Local features of spatial verification. weights: of DELF; a file of step 02, or of the bootstrap round."""

    features: Literal["rootsift", "delf"] = "rootsift"
    weights: DelfWeights = "bootstrap"
    max_points: Positive = 800
    longest_side: Positive = 640


class VerificationSettings(Settings):
    """When two images are taken to show the same thing: `min_inliers` matches agree with one transform.

    max_distance: of two matched descriptors; 2 allows any. strip, border: shares of an image's shorter side;
    matches in one strip so narrow, or so near to the sides, are a caption's or a frame's and do not count (see
    verification.verify); 0 counts them.
    """

    ratio: Share = 0.85
    max_distance: Annotated[float, Field(gt=0, le=2)] = 2.0
    model: Literal["homography", "affine"] = "homography"
    threshold: Annotated[float, Field(gt=0)] = 6.0
    strip: Share = 0.06
    border: Share = 0.15
    min_inliers: Positive = 30


class Agreement(Settings):
    """For small sets: keep an image whose label agrees with its nearest verified images (see cleaning.py)."""

    neighbours: Positive = 3
    min_support: Share = 0.2


class Cleaning(Settings):
    """Step 01. more_than: the verified neighbours that an image must exceed; -1 keeps every image.

    published: a train_clean.csv (landmark_id,images) to take as it is instead of cleaning.
    """

    published: Annotated[str, AfterValidator(_absolute)] | None = None
    representation: Representation = Representation()
    neighbours: Positive = 1000
    same_label: Positive = 100
    more_than: Annotated[int, Field(ge=-1)] = 2
    min_images: Positive = 2
    agreement: Agreement | None = None

    @property
    def looks(self) -> bool:
        """Whether images are looked at, or the labels or a published list believed."""
        return self.published is None and self.more_than >= 0

    @property
    def thresholds(self) -> tuple[int, ...]:
        """The counts of verified neighbours that decide something about an image."""
        return (self.more_than + 1,) if self.agreement is None else tuple({1, self.more_than + 1})


class Stage(Settings):
    """Some epochs under one augmentation (see augment.py)."""

    augmentation: Literal["none", "soft", "middle", "hard"]
    epochs: Positive


class Optimisation(Settings):
    """Epochs of SGD with cosine annealing per step. The defaults are the winners'.

    batch_size: images of one step, of all processes together. accumulate: parts that a step's batch is passed
    in, for less memory. precision: fp32, or autocast to bf16 or fp16; `auto` is what the device computes fast.
    compile: by torch.compile, which on a CPU wants a C++ compiler. ema: decay per step of the running average of
    the net's weights that is the result instead of its last weights, such as 0.999 over thousands of steps.
    images_per_class: a label with more takes part with this many an epoch, drawn anew each time. class_weight: an
    image counts as its label's number of images to the power of minus this; 0 for all alike.
    """

    stages: list[Stage] = Field(min_length=1)
    sizes: Sizes = "S2"
    batch_size: Annotated[int, Field(ge=4)] = 32
    accumulate: Positive = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    head_learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    final_learning_rate: Annotated[float, Field(ge=0)] = 3e-6
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    precision: Precision = "auto"
    compile: bool = False
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    images_per_class: Positive | None = None
    class_weight: Share = 0.0


class Training(Optimisation):
    """Step 02: soft, then hard; and the shape of descriptor and loss.

    scale: AdaCos finds its own, and has no margin. sample_rate: for very many labels, the share of them that a
    step compares with (partial FC); those of the batch are always among them.
    """

    stages: list[Stage] = Field(
        [Stage(augmentation="soft", epochs=5), Stage(augmentation="hard", epochs=7)], min_length=1
    )
    margin: Annotated[float, Field(ge=0)] = 0.3
    scale: Annotated[float, Field(gt=0)] = 30.0
    dim: Positive = 512
    sample_rate: Annotated[float, Field(gt=0, le=1)] | None = None


class Finetune(Optimisation):
    """Step 03: the last epochs at full resolution, batch norm frozen."""

    stages: list[Stage] = Field([Stage(augmentation="soft", epochs=1)], min_length=1)
    sizes: Sizes = "L2"


class Validation(Settings):
    """Images of the cleaned train set that are held out of training, and judge each epoch; share 0 holds out none.

    At most `images`, and never more than a third of a label's.
    """

    share: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    images: Positive = 500


class Model(Settings):
    """One member of the ensemble. Without a loss it is not trained: its pooled features are the descriptor.

    weights: imagenet (what timm has for the backbone), none, or a file: of a backbone, or a model or checkpoint
    of step 02. pooling: GeM over the feature map (of a transformer, over its patches), or a transformer's class
    token. gem_learned: p is learned, beginning with gem_p.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    backbone: str = "tf_efficientnet_lite0"
    weights: Weights = "imagenet"
    pooling: Literal["gem", "token"] = "gem"
    gem_p: Annotated[float, Field(gt=0)] = 3.0
    gem_learned: bool = False
    loss: Literal["arcface", "cosface", "adacos"] | None = "arcface"
    training: Training = Training()
    finetune: Finetune | None = Finetune()
    weight: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _sampling_fits(self) -> "Model":
        if self.training.sample_rate is None:
            return self
        if self.loss == "adacos":
            raise ValueError("training.sample_rate: AdaCos takes its scale from all labels; leave it null")
        if "adamw" in (self.training.optimizer, self.finetune and self.finetune.optimizer):
            raise ValueError("training.sample_rate: goes with optimizer sgd")
        return self


class Delf(Settings):
    """DELF, trained in step 02: `of` names the model whose features the attention learns to pick.

    Those of an untrained model are its weights' own. The trunk stays as it is, so that only the
    head_learning_rate, the attention's and classifier's, counts.
    """

    of: str
    dim: Positive = 40
    training: Optimisation = Optimisation(stages=[Stage(augmentation="hard", epochs=3)], head_learning_rate=3e-2)
