"""The settings of what follows the descriptors: their ensemble, search, retrieval and recognition."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from landmark.settings import Positive, Settings, Share


class Ensemble(Settings):
    """How the models' descriptors are joined. whiten: to how many numbers by PCA-whitening, learned on train."""

    whiten: Positive | None = None


class Search(Settings):
    """How nearest neighbours are found.

    index: exact, or a factory string of faiss for a search that misses some, such as IVF4096,SQfp16, IVF4096,PQ64
    or HNSW32; how much it finds is measured by `recall_queries` queries. parameters: of the index, as faiss writes
    them, such as nprobe=32 or efSearch=128. candidates: how many times as many are taken from the index, to be
    put in order by their exact similarity.
    """

    index: str = "exact"
    parameters: str = ""
    candidates: Positive = 2
    recall_queries: Positive = 256


class Expansion(Settings):
    """Average (alpha 0) or alpha query expansion, and database-side augmentation, by so many neighbours."""

    neighbours: Positive = 10
    alpha: Annotated[float, Field(ge=0)] = 3.0


class KReciprocal(Settings):
    """k-reciprocal re-ranking (Zhong et al., CVPR 2017); weight: of the original distance."""

    k1: Positive = 20
    k2: Positive = 6
    weight: Share = 0.3


class Diffusion(Settings):
    """Diffusion on the graph of the index's mutual neighbours (Iscen et al., CVPR 2017)."""

    neighbours: Positive = 50
    query_neighbours: Positive = 10
    gamma: Annotated[float, Field(gt=0)] = 3.0
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.99


Reranker = Literal["dqe", "aqe", "alpha_qe", "dba", "k_reciprocal", "diffusion"]


class Retrieval(Settings):
    """Step 05. rerank: what follows the search, in this order; each starts from the list of the one before it.

    dqe labels every image by its `vote_neighbours` nearest train images. sort: its sort step; insert_above: its
    insert step, null leaves it out. aqe is alpha_qe with alpha 0; dba changes the index, so it comes first.
    """

    top: Annotated[int, Field(gt=0, le=100)] = 100
    rerank: list[Reranker] = ["dqe"]
    vote_neighbours: Positive = 3
    sort: bool = True
    insert_above: float | None = 0.6
    expansion: Expansion = Expansion()
    k_reciprocal: KReciprocal = KReciprocal()
    diffusion: Diffusion = Diffusion()

    @model_validator(mode="after")
    def _dba_first(self) -> "Retrieval":
        if "dba" in self.rerank[1:]:
            raise ValueError("rerank: dba changes the index itself; put it first, and once")
        return self


class Recognition(Settings):
    """Step 06. verify: the pairs whose inlier term can change the result, all of them, or none: no inlier term.

    refine: of so many nearest train images those vote that are best by similarity and inliers together; null takes
    the nearest.
    """

    vote_neighbours: Positive = 3
    refine: Positive | None = None
    verify: Literal["needed", "all", "none"] = "needed"
    inlier_cap: Positive = 70
    inlier_floor: Annotated[int, Field(ge=0)] = 0
    ban_above: Positive | None = 30

    @model_validator(mode="after")
    def _floor_below_cap(self) -> "Recognition":
        if self.refine is not None and self.refine < self.vote_neighbours:
            raise ValueError(f"refine must be at least vote_neighbours, {self.vote_neighbours}")
        if self.inlier_floor >= self.inlier_cap:
            raise ValueError(f"inlier_floor must be below inlier_cap, {self.inlier_cap}")
        return self
