"""The one settings tree. Each value states its unit and its reason in the docstring below it.

Order of precedence: defaults here < a YAML file < environment (``HSCODE__A__B=value``) < ``--set a.b=value``.
The hash of the resolved tree goes with every run and every bundle.
"""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from models.errors import UserError

ENVIRONMENT_PREFIX = "HSCODE__"
Kind = Literal["textcnn", "bilstm", "transformer", "dnn", "svc", "encoder", "pool"]
"""Model kinds; a pool is made of the others."""


class Section(BaseModel):
    """A branch of the tree: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Source(Section):
    """One place where rows come from."""

    path: str
    """Local path, http(s):// or s3:// address of a csv, parquet or jsonl file, plain or .gz/.zst."""
    weight: float = Field(1.0, ge=0)
    """Factor on the loss of this source's rows in training (1 = as any other); also decides label conflicts."""
    kind: Literal["given", "corrected", "nomenclature", "vague"] = "given"
    """What its labels are worth; becomes `label_kind` of its rows."""
    name: str | None = None
    """Name in reports; default: the file's `source` column where there is one, else the file's stem."""


class Data(Section):
    """Ingest: what is read, and how rows are cleaned, merged and refused."""

    sources: tuple[Source, ...] = ()
    """Where rows come from. Empty: the shipped synthetic sample."""
    description_column: str | None = None
    """Column with the text; default: the first of description, text, goods_description, item."""
    code_column: str | None = None
    """Column with the code; default: the first of code, hs_code, hscode, hs6, commodity_code, label."""
    encoding: str = "utf-8"
    """Encoding of text files. Others are reported, never guessed: a wrong guess spoils labels silently."""
    source_weights: Mapping[str, float] = {}
    """Weight by value of a file's `source` column (overrides the weight of the file)."""
    source_kinds: Mapping[str, Literal["given", "corrected", "nomenclature", "vague"]] = {
        "hs_nomenclature_2022": "nomenclature",
        "us_hts_2026": "nomenclature",
    }
    """`label_kind` by value of a file's `source` column (overrides the kind of the file). The defaults are the names
    that public nomenclature texts go by: legal wording is no sample of what traders write, and is judged apart."""
    near_duplicate_similarity: float = Field(0.8, gt=0, le=1)
    """Jaccard similarity of token sets from which two descriptions count as near-duplicates (one group, one side
    of the split). 0.8: about 12 points of a naive split's accuracy were near-duplicates on real declarations."""
    max_text_chars: int = 2000
    """Characters of a description kept; longer ones are cut there and counted."""
    max_line_bytes: int = 1_000_000
    """Bytes of one input line; a longer one is refused rather than read into memory."""
    sample_rows: int = 12_000
    """Rows of the generated sample where no source is given."""


class Nomenclature(Section):
    """The edition of the Harmonized System that codes are checked against."""

    path: str | None = None
    """csv with columns `code, text` (six digits and the legal text). None: the codes seen in the data are the edition
    (for the shipped sample: the sample's own synthetic nomenclature)."""
    edition: str = "HS2022"
    """Name of the edition; travels in bundle and answers."""
    correlation: str | None = None
    """csv with two columns, old and new code, used for codes that the edition has retired."""
    train_weight: float = Field(0.3, ge=0)
    """Weight of legal texts as training rows, so that a subheading without an example can still be answered; also the
    factor on the weight of sources of kind nomenclature, unless data.source_weights names one. 0: not added as rows."""


class Split(Section):
    """Parts by near-duplicate group, stratified by heading."""

    test_share: float = Field(0.1, gt=0, lt=1)
    """Share of rows for the final judgement; no choice is made on them."""
    valid_share: float = Field(0.1, gt=0, lt=1)
    """Share of rows for early stopping, calibration and thresholds."""
    seed: int = 17
    """Same seed, same parts."""


class Text(Section):
    """Tokens and embeddings, trained in the pipeline's own step."""

    vocabulary: int = 30_000
    """Words kept, most frequent first."""
    min_count: int = 2
    """A word seen less often is read by its character n-grams alone."""
    buckets: int = 20_000
    """Hash buckets for character n-grams (typos, truncations, unseen brands)."""
    ngrams: tuple[int, int] = (3, 5)
    """Shortest and longest character n-gram."""
    dimensions: int = 128
    """Width of the embedding."""
    max_tokens: int = 32
    """Tokens of a text that a net reads."""
    stem: bool = True
    """Read English plurals as singulars: an answer should not turn on an s."""
    frequent: float = 1e-3
    """Share of all words at which a word counts half in a text's mean: what stands in every text tells little."""
    pretrained: str | None = None
    """Folder of a sentence encoder (BERT's word pieces) whose token table, reduced by PCA, is put beside the trained
    vectors: words that the training rows lack have a meaning too. Nothing is downloaded."""
    pretrained_dimensions: int = 128
    """Width of that part."""
    pretrained_weight: float = Field(1.0, ge=0)
    """Length of that part of a vector; the trained part has 1."""


class Train(Section):
    """What all nets share."""

    epochs: int = 8
    """Upper limit; early stopping on valid ends it sooner."""
    patience: int = 3
    """Epochs without a better valid score before stopping."""
    epoch_rows: int = 20_000
    """Rows of an epoch at most, drawn by weight from the up-sampled training part."""
    batch: int = 256
    """Rows a step."""
    learning_rate: float = 1e-3
    """Peak of a one-cycle schedule: low, because nets start from trained vectors and class centroids."""
    seed: int = 17
    """Start values, order of rows, dropout."""
    threads: int = 2
    """CPU threads of torch, processes of scikit-learn."""
    upsample: float = Field(0.5, ge=0, le=1)
    """Stratified up-sampling of the training part: 0 leaves class sizes alone, 1 makes all classes as large as the
    largest; drawn in proportion to size^(1-upsample)."""
    level_losses: tuple[float, float, float] = (0.33, 0.33, 0.34)
    """Weights of the losses at HS2, HS4, HS6. With more on the subheading the levels above lose more than it gains."""
    sibling_factor: float = Field(6.0, gt=0)
    """How much more a nomenclature text counts among the subheadings of its heading than its weight says. Traders know
    better what goods are called, the law what tells one subheading from the next."""
    path_parts: int = Field(2, ge=0)
    """A tariff's text that is a path ("A > B > Other > C") is read in training as its last so many parts that say
    something; 0: the whole path. Its first parts are the same in all sibling lines."""
    window: int = Field(12, ge=0)
    """A nomenclature text is read in training by a random run of 3 to so many of its words, another each time: traders
    write few words, and short rows train several times as fast. 0: the whole text."""
    word_dropout: float = Field(0.2, ge=0, le=1)
    """Share of known words that a net reads by their n-grams in training, as it will read unknown ones."""
    dropout: float = Field(0.3, ge=0, lt=1)
    """Share of a body's features dropped in training."""
    start_scale: float = 15.0
    """Factor on the cosine between a text and a class's centroid before training; it is trained like all else."""
    weight_decay: float = 0.01
    """Decoupled decay of the weights a step, times the learning rate."""
    clip: float = 1.0
    """Largest length of a step's gradient."""


class TextCNN(Section):
    """Convolutions over token embeddings."""

    widths: tuple[int, ...] = (1, 2, 3)
    """Tokens a filter sees; descriptions have a median of four words."""
    filters: int = 128
    """Filters a width. 256 take half as long again and answer no better."""
    dropout: float = 0.4
    """Share of features dropped in training."""


class BiLSTM(Section):
    """Words read forwards and backwards."""

    units: int = 128
    """Units each way."""
    dropout: float = Field(0.3, ge=0, lt=1)
    """Share of features dropped in training."""


class Transformer(Section):
    """A small transformer encoder, trained from the word vectors on."""

    layers: int = 2
    """Layers; with some thousand short texts more learn nothing more."""
    heads: int = 4
    """Attention heads; divides the width."""
    width: int = 128
    """Width of a layer."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of features dropped in training."""


class DNN(Section):
    """Dense layers on the mean word vector: the cheapest of the nets."""

    layers: int = 2
    """Dense layers."""
    width: int = 512
    """Width of each."""
    dropout: float = Field(0.3, ge=0, lt=1)
    """Share of features dropped in training."""
    word_dropout: float = Field(0.2, ge=0, lt=1)
    """Share of a text's words left out of the mean in training."""


class SVC(Section):
    """Linear support vector machines on word and character n-grams."""

    cost: float = Field(0.5, gt=0)
    """Inverse of the regularisation strength, for chapters and headings against the rest."""
    sibling_cost: float = Field(5.0, gt=0)
    """The same for subheadings against their siblings, which have few rows and little to overfit to."""
    tolerance: float = Field(0.5, gt=0)
    """Where liblinear stops. 0.1 takes half as long again and scikit-learn's usual 1e-4 far longer, to no gain."""
    law_weight: float = Field(1.0, gt=0)
    """Weight of a nomenclature's text, whatever its source weighs for nets: each text is a machine's only word on a
    code that no trader named. Real rows, valid, top-1 at 2/4/6 digits: 68.5/58.1/44.6; with 0.3 (tariff lines 0.1)
    66.5/54.5/43.0."""
    ngrams: tuple[int, int] = (3, 5)
    """Shortest and longest character n-gram, within words."""
    min_rows: int = Field(2, ge=1)
    """Rows that must have a term for it to become a feature."""
    prune: float = Field(0.02, ge=0)
    """Weights smaller than this are dropped: most of the size, none of the answers."""
    machines_a_fit: int = Field(50, ge=1)
    """Machines fitted in one call: a call copies all rows, a large one shows no progress."""


class Encoder(Section):
    """A pre-trained sentence encoder with a trained head."""

    source: str | tuple[str, ...] | None = None
    """Local folder or hub name of the encoder, or a list of them, whose vectors then stand side by side; None: the kind
    is not available. Only a hub name is ever downloaded."""
    max_tokens: int = Field(40, ge=4)
    """Word pieces read of a text; nine in ten trader texts have fewer than 12."""
    layers: tuple[float, ...] = Field((0.67, 1.0), min_length=1)
    """Layers whose mean states make a text's vector, side by side, as shares of the encoder's depth (0: the word pieces
    before any layer). With two the head is twice as large, better alone and alike in a pool:
    docs/decisions/0012-accuracy.md."""
    mask_digits: bool = False
    """Read every run of digits as 0. The pre-trained encoder knows sizes and counts, so they are left to it."""
    int8: bool = True
    """Store the encoder as int8 where its vectors stay close to the fp32 ones and that loses less than 0.3 points on
    valid: a quarter of the bytes, about half of the time."""
    epochs: int = 8
    """Passes over the embedded rows at most; the encoder itself is frozen: tuned on these rows it was a point better
    on their like and far worse on other sources."""
    heads: int = Field(3, ge=1)
    """Heads trained with seeds of their own, whose directions are averaged into one: a better head at the price of
    training, none in answering."""
    learning_rate: float = 2e-3
    """Peak of the head's one-cycle schedule."""
    scale: float = Field(20.0, gt=0)
    """Factor on the cosine of text and class at the start; trained with the rest."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of the embedding's coordinates dropped in training."""


class Pool(Section):
    """Members' calibrated probabilities averaged geometrically with weights from valid."""

    members: tuple[str, ...] = ()
    """Kinds that may be members; empty: all that are trained."""
    least_weight: float = Field(0.05, ge=0, lt=1)
    """A member with a smaller share of the weights leaves the pool: it costs more than it brings."""


class Models(Section):
    """Which kinds are trained, and each kind's own settings."""

    kinds: tuple[Kind, ...] = ("textcnn", "svc", "pool")
    """Of textcnn, bilstm, transformer, dnn, svc, encoder, pool. Where others are named too, encoder is left out while
    models.encoder.source names none, so that one file serves with and without a pre-trained encoder."""
    textcnn: TextCNN = TextCNN()
    bilstm: BiLSTM = BiLSTM()
    transformer: Transformer = Transformer()
    dnn: DNN = DNN()
    svc: SVC = SVC()
    encoder: Encoder = Encoder()
    pool: Pool = Pool()

    @property
    def trained(self) -> tuple[Kind, ...]:
        """`kinds` as far as they can be trained, the pool last: it is made of the others."""
        others = tuple(kind for kind in self.kinds if kind not in ("encoder", "pool"))
        if self.encoder.source is not None or not others:
            others += tuple(kind for kind in self.kinds if kind == "encoder")
        return others + tuple(kind for kind in self.kinds if kind == "pool")


class Answer(Section):
    """When to answer, how far down, and when not to."""

    precision: float = Field(0.90, gt=0, lt=1)
    """Share of given answers that must be right at the level given, fitted on valid: a wrong code costs a broker a
    correction, a shorter one only a look."""
    assurance: float = Field(0.8, gt=0, lt=1)
    """Confidence with which each threshold reaches that precision. 0.8: in simulation with 640 valid rows and three
    levels, 95 % of fits lie no more than 2 points under the precision wanted; 2 to 4 points fewer rows are answered."""
    candidates: int = 5
    """Candidates listed in an answer unless the request says otherwise (1..20)."""


class Evaluate(Section):
    """What is measured and how it is grouped."""

    rare_rows: int = 5
    """A class with at most so many training rows counts as rare."""
    reference_sets: Mapping[str, str] = {}
    """Name → file outside the training sources that champion and candidate are both measured on."""
    without_upsampling: Kind | None = None
    """Kind that is trained once more without up-sampling, so that the report shows what it does. None: none."""


class Explain(Section):
    """What a bundle carries to explain its answers."""

    index_rows: int = Field(20_000, ge=0)
    """Known descriptions in the bundle that the nearest are looked for among; about 190 bytes each. 0: none, where
    descriptions must not leave the training."""


class Select(Section):
    """Which model is taken: the cheapest of those that are as good as the best."""

    margin: float = Field(0.01, ge=0)
    """Share of the score that a cheaper model may be worse (0.01 = one point): less than a broker would notice."""
    confidence: float = Field(0.95, gt=0.5, lt=1)
    """Confidence with which no model worse than the margin counts as good as the best."""
    level_weights: tuple[float, float, float] = (0.2, 0.3, 0.5)
    """Weights of being right at HS2, HS4, HS6 in the score of a row: as in the training's loss."""


class Gate(Section):
    """What a candidate must not lose against the champion before it meets traffic."""

    allowed_loss: tuple[float, float, float] = (0.03, 0.03, 0.03)
    """Share of rows at HS2, HS4, HS6 by which the candidate may fall behind on each set. Two trainings of equal worth
    differ by 1.2 points (one standard deviation) on 640 rows, so 2 would stop one in twenty; the canary looks on."""
    confidence: float = Field(0.8, gt=0.5, lt=1)
    """A loss beyond what is allowed counts only where its one-sided bound excludes zero at this confidence, so that a
    reference set of twenty rows cannot stop a release by one row."""
    allowed_calibration: float = Field(0.03, ge=0)
    """By how much the expected calibration error, less what chance gives, may grow at any level on the test rows; more
    counts only where it is more than chance, at `confidence`."""
    latency_ms: float = Field(50.0, gt=0)
    """CPU milliseconds one answer may take (95th percentile, one thread, one text): a customs form waits for it."""
    resamples: int = 2000
    """Bootstrap resamples behind each interval."""
    listed: int = 50
    """Gained and lost descriptions listed for each set."""
    seed: int = 17
    """Of the bootstrap: same evidence, same verdict."""


class Simulate(Section):
    """Repeated runs of every kind, to tell differences from chance. Off by default: it trains each kind many times."""

    seeds: int = Field(0, ge=0)
    """Seeds a resample (start values, order of rows). 0: no simulation."""
    resamples: int = Field(5, ge=1)
    """Grouped resamples: each draws another test part by near-duplicate groups."""
    test_share: float = Field(0.15, gt=0, lt=1)
    """Share of groups that a resample tests on."""
    rows: int | None = None
    """Training rows at most in a run (None: all), where many runs must fit into little time."""
    seed: int = 17
    """Of the resamples."""


class Cost(Section):
    """The price table, and the load that a month is priced at."""

    currency: str = "USD"
    """Of all prices here; a name only."""
    cpu_hour: float = Field(0.035, ge=0)
    """Price of one CPU for an hour: a round figure for on-demand general-purpose machines; put your own."""
    gb_hour: float = Field(0.0045, ge=0)
    """Price of one GB of memory for an hour: as above."""
    gb_month: float = Field(0.023, ge=0)
    """Price of one GB in object storage for a month: as above."""
    answers_per_second: float = Field(50.0, ge=0)
    """Mean load: about four million answers a day."""
    utilisation: float = Field(0.6, gt=0, le=1)
    """Share of a pod's CPU that answers use before another pod starts."""
    cpus_per_pod: float = Field(1.0, gt=0)
    """CPUs a serving pod holds."""
    least_pods: float = Field(1.0, ge=0)
    """Pods that stay up without load; 0 with scale to zero."""
    trainings_per_month: float = Field(4.0, ge=0)
    """Retrainings: one a week."""
    kept_versions: int = Field(20, ge=1)
    """Bundles kept in the store."""


class Tune(Section):
    """Search for better settings before training. Off by default: it trains a kind many times."""

    kinds: tuple[Kind, ...] = ()
    """Kinds to search; empty: none."""
    trials: int = Field(20, ge=1)
    """Trainings of a kind at most; bad ones are ended after some epochs."""
    seconds: float | None = Field(None, gt=0)
    """Time for a kind; no new trial is started after it. None: trials alone count."""
    random_trials: int = Field(6, ge=1)
    """Trials drawn at random before the search learns from them; none is ended early before."""


class Registry(Section):
    """MLflow."""

    uri: str | None = None
    """Tracking and registry address: http(s)://HOST, or sqlite:///FILE. None: SQLite in the home folder."""
    model: str = "hscode"
    """Name of the registered model."""

    @field_validator("uri")
    @classmethod
    def _address(cls, uri: str | None) -> str | None:
        if uri is not None and not re.match(r"https?://[^/\s]|sqlite:///\S", uri):
            raise ValueError("must be MLflow's address, http://HOST:PORT, or sqlite:///FILE")
        return uri


class Deploy(Section):
    """Where the winner is handed to."""

    target: str | None = None
    """`local:HOME` (the local host of that home folder) or `kserve:NAMESPACE`. None: the local host of `--home`."""
    name: str = "hscode"
    """Name of the InferenceService."""
    rollout: Literal["direct", "canary"] = "direct"
    """What happens to a version that passed the gate: `direct` makes it champion (a person's run), `canary` makes it
    challenger and lets the canary controller decide (every automatic run)."""
    timeout_seconds: float = 300
    """Time until the new revision must be ready; then the old one goes on serving."""


class CanaryErrors(Section):
    """How many more errors (5xx, no answer) a challenger may make: ratio times the champion's share, plus a share."""

    margin_ratio: float = Field(1.25, ge=1)
    """Factor from which a challenger is unacceptable; together with `margin`."""
    margin: float = Field(0.002, ge=0, lt=1)
    """Share of requests on top of it (0.002 = 1 in 500): without it a champion that never errs could not be matched
    in any number of requests."""
    tolerance_ratio: float = Field(1.0, ge=1)
    """Factor up to which a challenger is as good; beyond it, evidence of harm adds up."""
    tolerance: float = Field(0.0, ge=0, lt=1)
    """Share of requests on top of it."""


class CanaryLatency(Section):
    """How much slower a challenger may be. Requests that waited for a start from zero are counted apart."""

    quantile: float = Field(0.95, gt=0, lt=1)
    """Quantile that is compared."""
    budget_seconds: float | None = Field(1.0, gt=0)
    """What the quantile may be at most, whatever the champion's is. None: no budget."""
    margin_ratio: float = Field(1.25, gt=1)
    """Factor on the champion's quantile from which a challenger is unacceptable (counted in steps of 4.4 %)."""
    tolerance_ratio: float = Field(1.1, ge=1)
    """Factor up to which it is as good: a new process has colder caches."""
    idle_seconds: float = Field(60.0, gt=0)
    """A version that had no request for so long may have been scaled to zero (Knative's stable window is 60 s): its
    requests until the first answer count as cold starts."""


class CanaryQuality(Section):
    """How much worse a challenger may answer: by corrections, and by what can be seen without them."""

    accuracy_margin: float = Field(0.02, gt=0, lt=1)
    """Drop of the share of right codes among corrected or confirmed answers that is unacceptable (0.02 = 2 points)."""
    accuracy_tolerance: float = Field(0.0, ge=0, lt=1)
    """Drop up to which it is as good."""
    require_corrections: bool = False
    """Promote only when corrections show that accuracy did not drop by the margin. False: corrections can stop a
    challenger, but few services get enough of them in time to require it."""
    proxies: bool = True
    """Judge status shares and confidence too: they move when a model breaks, hours before the first correction."""
    status_margin: float = Field(0.05, gt=0, lt=1)
    """Rise of the mean loss of answers (0 answered, 0.5 shortened, 1 vague or unsure) that is unacceptable."""
    status_tolerance: float = Field(0.02, ge=0, lt=1)
    """Rise up to which it is as good: a retrained model moves a little."""
    confidence_margin: float = Field(0.05, gt=0, lt=1)
    """Fall of the mean confidence that is unacceptable. A rise is shown, not judged: it is what retraining is for."""
    confidence_tolerance: float = Field(0.02, ge=0, lt=1)
    """Fall up to which it is as good."""


class Canary(Section):
    """How a challenger gets its share of traffic and who decides. The statistics: docs/decisions (canary)."""

    steps: tuple[int, ...] = (5, 10, 25, 50, 100)
    """Shares of traffic, percent, rising. The last one below 100 is where a challenger is compared for promotion: there
    both versions see load enough."""
    false_rollback: float = Field(0.05, gt=0, lt=1)
    """Chance that a challenger as good as the champion is rolled back, over the whole canary, however often it is
    looked at, over all measures together."""
    false_promotion: float = Field(0.05, gt=0, lt=1)
    """Chance that a challenger worse by a margin in any measure is promoted."""
    step_seconds: float = Field(300, ge=0)
    """Shortest time at a step."""
    step_requests: int = Field(100, ge=1)
    """Fewest requests that the challenger answers at a step."""
    deadline_seconds: float = Field(86_400, gt=0)
    """Time for the whole canary; undecided at its end (too little traffic) means rollback."""
    ready_seconds: float = Field(600, gt=0)
    """Time in which the challenger must be ready and have its first share."""
    block_seconds: float = Field(60, gt=0)
    """Length of a block of evidence. Versions are compared within blocks, so load may change from one to the next."""
    settle_seconds: float = Field(30, ge=0)
    """A block is closed so long after its end; a request without a response by then is an error."""
    history_seconds: float = Field(3600, ge=0)
    """How far back before the canary the champion's record is read, as a first guess."""
    look_seconds: float = Field(5, gt=0)
    """How often the controller looks."""
    lease_seconds: float = Field(15, gt=0)
    """How long a controller that has died keeps others from acting."""
    automatic: bool = True
    """Start a canary for each version that becomes challenger in the registry; False: only `hscode canary start`."""
    errors: CanaryErrors = CanaryErrors()
    latency: CanaryLatency = CanaryLatency()
    quality: CanaryQuality = CanaryQuality()

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if not steps or list(steps) != sorted(set(steps)) or steps[0] < 1 or steps[0] >= 100 or steps[-1] > 100:
            raise ValueError("must be rising percentages from 1 to 100 with one below 100, such as [5, 25, 50, 100]")
        return steps


class Knative(Section):
    """Knative's autoscaler: annotations and ConfigMap config-autoscaler, with their published defaults."""

    target: float = Field(8.0, gt=0)
    """Requests in flight a pod that it aims at, before utilisation: `scaleTarget` of our manifest."""
    container_concurrency: int = Field(0, ge=0)
    """Requests a pod gets at a time, the rest waits in the activator; 0: no limit (our manifest: the predictor has its
    own line)."""
    target_utilisation: float = Field(0.7, gt=0, le=1)
    """container-concurrency-target-percentage / 100."""
    stable_window_s: int = Field(60, ge=6, le=3600)
    """stable-window, seconds."""
    panic_window_share: float = Field(0.1, ge=0.01, le=1)
    """panic-window-percentage / 100, of the stable window."""
    panic_threshold: float = Field(2.0, ge=1.1)
    """panic-threshold-percentage / 100: wanted over ready pods from which it panics."""
    max_scale_up_rate: float = Field(1000.0, gt=1)
    """max-scale-up-rate: factor on ready pods in one decision."""
    max_scale_down_rate: float = Field(2.0, gt=1)
    """max-scale-down-rate: divisor of ready pods in one decision."""
    scale_down_delay_s: float = Field(0.0, ge=0, le=3600)
    """scale-down-delay, seconds."""
    grace_s: float = Field(30.0, ge=0)
    """scale-to-zero-grace-period, seconds: how long the activator must have been in the way before the last pod goes.
    With a burst capacity above what the pods hold it is in the way all along, and this costs no time."""
    retention_s: float = Field(0.0, ge=0)
    """scale-to-zero-pod-retention-period, seconds: how long the last pod is kept at least."""
    target_burst_capacity: float = Field(211.0, ge=-1)
    """target-burst-capacity, requests; -1: the activator is always in the way."""
    tick_s: int = Field(2, ge=1)
    """Seconds between decisions (tickInterval in the source)."""
    drain_s: float = Field(30.0, ge=0)
    """Seconds that a pod which is told to go stays (drainSleepDuration of queue-proxy); paid for."""


class Capacity(Section):
    """`hscode simulate`: the service on paper. Times: measured where their reason says how, else assumed."""

    rate: float = Field(5.0, gt=0)
    """Mean requests a second of the drawn traces: 430,000 a day."""
    objective_ms: float = Field(500.0, gt=0)
    """Milliseconds in which a request should be answered: what a form's user takes for at once."""
    objective_share: float = Field(0.99, gt=0, le=1)
    """Share of requests that must meet it."""
    max_replicas: int = Field(4, ge=1)
    """`maxReplicas` of our manifest."""
    service_ms: tuple[float, float] = (2.6, 3.1)
    """Median and 95th percentile of the CPU milliseconds of a request with one description; log-normal between.
    Measured by `serving.capacity.measure` (300 requests) with the bundle of benchmarks/peers/full_size.py, a Text-CNN
    of the full edition's size, on a shared x86 machine; `--measure` takes your bundle and machine."""
    text_ms: float = Field(0.33, ge=0)
    """CPU milliseconds of each further description in a request. Measured as above."""
    cold_start_s: tuple[float, float] = (2.2, 2.6)
    """Median and 95th percentile of the seconds from a pod's creation to readiness; log-normal between. An empty KServe
    model woke in 1.9 to 2.6 s on the test cluster with its image on the node; pulling an image adds to it."""
    pod_start_s: float = Field(1.0, ge=0)
    """Seconds that a cluster adds to the process's start (sandbox, storage initializer, probes), for `--measure`.
    Assumed."""
    gateway_ms: float = Field(3.0, ge=0)
    """Milliseconds that gateway, activator and queue-proxy add to a request. Assumed."""
    memory_gb: float = Field(0.268, gt=0)
    """GB of memory a pod is billed for: the request of our manifest (256 MiB)."""
    waiting: int = Field(1000, ge=1)
    """Requests in a pod from which it refuses: the predictor's own limit."""
    knative: Knative = Knative()


class Monitor(Section):
    """The always-on service that takes the logger's events and corrections, and tells Prometheus what it sees."""

    texts: Literal["keep", "redact", "drop"] = "redact"
    """Descriptions in stored events: as sent; without long numbers, e-mail and web addresses (parcels, orders, people);
    or not at all. Their hashes are always kept, so that corrections find their answers."""
    texts_days: float = Field(30, gt=0)
    """Days until the descriptions of an event are dropped: an expert who corrects answers wants to read them."""
    events_days: float = Field(90, gt=0)
    """Days until an event with its answers is deleted; corrections stay until they are withdrawn."""
    clean_seconds: float = Field(3600, gt=0)
    """How often what is past its days is looked for."""
    body_bytes: int = Field(8 * 2**20, ge=1024)
    """Bytes of one event's body: the predictor's largest request has 1 MiB, its answer (500, 20 candidates) 2 MiB."""
    queue_events: int = Field(5000, ge=1)
    """Events taken and not yet committed; past it 503. At a thousand a second five seconds of a slow database."""
    queue_bytes: int = Field(64 * 2**20, ge=1024)
    """Bytes of bodies being read or not yet committed; past it 503. Bounds the memory."""
    batch_events: int = Field(500, ge=1)
    """Events of one transaction at most: past some hundred the commit is no longer what costs."""
    gather_ms: float = Field(5, ge=0)
    """Milliseconds from one transaction to the next at most, while more events come: they share it."""
    commit_seconds: float = Field(4, gt=0)
    """How long an event waits for its commit before it is answered 503; senders give up after 5 s."""
    future_seconds: float = Field(300, ge=0)
    """How far ahead of our clock an event's time may be: clocks differ, but not by minutes."""
    answer_seconds: float = Field(90, gt=0)
    """A request without an answer after so long counts as an error; the manifest's time-out is 60 s."""
    refresh_seconds: float = Field(15, gt=0)
    """How often figures by window are computed anew: Prometheus' usual scrape interval is 15 s or more."""
    window_seconds: float = Field(21_600, gt=0)
    """Sliding window of drift, confidence and unknown words. Six hours hold some hundred texts on a quiet service."""
    window_parts: int = Field(60, ge=4)
    """Parts a window is counted in. How much they differ among each other tells how far texts are from independent."""
    confidence: float = Field(0.99, gt=0.5, lt=1)
    """Of each one-sided bound (`hs_drift_lower_ratio`, `hs_accuracy_upper_ratio`): alerts look at bounds, so that small
    windows do not alarm."""
    corrections_days: float = Field(30, gt=0)
    """Sliding window of accuracy and calibration, by when a correction was recorded."""
    calibration_answers: int = Field(50, ge=10)
    """Corrected answers from which a calibration error is told; ten bins need some each."""
    served_urls: tuple[str, ...] = ()
    """Addresses of /metrics of predictors (or of the local host): what they served is compared with what was logged."""
    versions: int = Field(20, ge=1)
    """Versions told to Prometheus at most, newest traffic first: bounds the labels."""
    token_file: str | None = None
    """File with the bearer token of POST and DELETE /corrections; None: the variable HSCODE_MONITOR_TOKEN, else
    `monitor.token` in the home folder, made at the first start. On a cluster without any, such requests are refused."""


class KubeflowSecrets(Section):
    """Names of the objects in the runs' namespace that steps get their environment from (manifests make them)."""

    config_map: str = "hscode-steps"
    """ConfigMap with AWS_ENDPOINT_URL and AWS_DEFAULT_REGION. All of it is optional: a cloud's own S3 needs neither."""
    s3: str = "hscode-s3"
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, the one that KServe's storage initializer reads too.
    Optional: where pods have a cloud identity there is none."""
    database: str = "hscode-database"
    """Secret with the state's address (key `url`), for steps that read corrections."""


class Kubeflow(Section):
    """Kubeflow Pipelines: where runs are started, and what their pods are."""

    endpoint: str | None = None
    """Address of the API, such as http://ml-pipeline.kubeflow:8888. None: pipelines run on this machine."""
    token_file: str | None = None
    """File with the bearer token, read again for each request. None: the pod's own token for KFP where one is mounted
    (/var/run/secrets/kubeflow/pipelines/token), else none. The token itself is never a setting: settings travel."""
    ca_file: str | None = None
    """Certificates to trust for an https endpoint; None: the usual ones."""
    namespace: str | None = None
    """Profile namespace of runs on a multi-user installation; None: single-user, where runs are in KFP's own."""
    experiment: str = "hscode"
    """Experiment that holds the runs; made where it is not there."""
    image: str | None = None
    """Image of the steps; None: the one the code was released with."""
    service_account: str | None = "hscode-pipeline"
    """Account of all pods of a run (KFP knows none for one step): it may patch InferenceServices, and what KFP's own
    `pipeline-runner` must. None: that one, which may not deploy."""
    pipeline_root: str | None = None
    """Where artifacts go (s3://BUCKET/PATH); None: what ConfigMap kfp-launcher says."""
    user: int = Field(65532, ge=1)
    """Uid that steps run as: the image's own. A `restricted` namespace wants it said."""
    step_seconds: int = Field(14_400, ge=60)
    """Time for one step. A pod whose Secret is missing waits for ever without it."""
    request_seconds: int = Field(15, ge=1)
    """Time for one answer of the API. The client's own start waits 9 minutes for a server that is not there."""
    poll_seconds: float = Field(5.0, gt=0)
    """How often a run that is waited for is looked at."""
    secrets: KubeflowSecrets = KubeflowSecrets()


class Trigger(Section):
    """What starts a retraining by itself, and how often at most. The rules: serving/control/trigger/policy.py."""

    cooldown_seconds: float = Field(21_600, ge=0)
    """Time after a run's end before the next may start: a new model needs traffic before it can be judged."""
    runs_a_day: int = Field(4, ge=1)
    """Runs within 24 hours at most; a person's own are not held back. More is a sign that retraining does not help."""
    patience_seconds: float = Field(172_800, gt=0)
    """How long something may wait for its turn: a canary may take a day, and the cooldown comes after it."""
    settle_seconds: float = Field(60, ge=0)
    """How long a run may take to appear at the backend after a submission that was not answered (only then is it
    submitted again), and a canary to start after its run's end."""
    look_seconds: float = Field(2, gt=0)
    """How often the submitter looks; what arrives at its own replica wakes it at once."""
    lease_seconds: float = Field(15, gt=0)
    """How long a submitter that has died keeps others from acting."""
    dry_run: bool = False
    """Decide and say what would be run, but run nothing."""
    body_bytes: int = Field(1_000_000, ge=1)
    """Bytes of a request's body at most; a thousand alerts take less."""
    token_file: str | None = None
    """File with the bearer token that senders must show. None: ``HSCODE_TRIGGER_TOKEN``, else one is made in the home
    folder."""
    data_prefixes: tuple[str, ...] = ()
    """Addresses (s3://bucket/folder/) under which new data may lie. Others are refused: what is read there is trained
    on. Empty: no new data is taken."""


class Retrain(Section):
    """What a retraining adds to the rows of data.sources."""

    corrections_weight: float = Field(3.0, ge=0)
    """Weight of a correction as a training row: an expert looked at it. Of its own text its code wins at any weight."""
    corrections_since: Literal["ever", "champion"] = "ever"
    """Which corrections are taken: all, or those since the champion was made. A model is trained from its rows alone,
    so with `champion` it forgets what earlier corrections taught unless data.sources have them by then."""
    new_data_weight: float = Field(1.0, ge=0)
    """Weight of the rows of new data."""
    left_out: tuple[str, ...] = ()
    """Addresses of new data that is not read, such as a file that was deleted or is known to be wrong."""
    warm_start: bool = False
    """Begin the training of nets at the champion's weights. False: a model is then decided by its rows and settings
    alone, and can be made again from them."""


class Loop(Section):
    """`hscode loop`: some days of a service told in minutes. Only times are short: config/loop.yaml has the others."""

    base_rows: int = Field(3000, ge=100)
    """Synthetic rows that the first champion is trained on; as many shifted ones for the reference model."""
    subheadings: int = Field(150, ge=100)
    """Subheadings of the synthetic sample: twenty rows of each."""
    judged_rows: int = Field(800, ge=50)
    """Rows that accuracies are measured on, of either stream; no model sees them in training."""
    rate: float = Field(20.0, gt=0)
    """Requests a second, one description each: a canary has its evidence in less than a minute, and two cores are
    not busy with it."""
    corrected: float = Field(0.8, ge=0, le=1)
    """Share of answers to which experts say the right code. Days of a service are told in minutes, so there must be
    many."""
    steady_seconds: float = Field(60, gt=0)
    """How long the stream is as in training before it shifts: longer than the monitor's window."""
    after_seconds: float = Field(20, ge=0)
    """How long it goes on after the verdict on the challenger."""
    deadline_seconds: float = Field(900, gt=0)
    """From the first request on; what has not happened by then is told as not happened."""
    start_seconds: float = Field(120, gt=0)
    """Until each part must be ready."""
    scrape_seconds: int = Field(2, ge=1)
    """Prometheus looks and decides so often; on a cluster twice a minute."""
    sustained_seconds: int = Field(10, ge=0)
    """The longest `for` of a rule: how long drift lasts until the alert fires; on a cluster half an hour."""
    grouped_seconds: int = Field(1, ge=1)
    """How long Alertmanager waits for others of a group; on a cluster half a minute."""


class State(Section):
    """Where events, corrections and decisions are kept."""

    url: str | None = None
    """SQLAlchemy address, postgresql+psycopg://… or sqlite:///FILE. None: SQLite in the home folder."""


class Local(Section):
    """Runs on this machine."""

    kept_runs: int = Field(5, ge=1)
    """The newest runs whose steps' artifacts stay in the home folder when one has ended: some 200 MB each on the
    sample. What is removed is made again where a later run needs it; versions, reports and logs stay."""


class Settings(Section):
    """All of it."""

    data: Data = Data()
    nomenclature: Nomenclature = Nomenclature()
    split: Split = Split()
    text: Text = Text()
    train: Train = Train()
    models: Models = Models()
    answer: Answer = Answer()
    evaluate: Evaluate = Evaluate()
    explain: Explain = Explain()
    tune: Tune = Tune()
    simulate: Simulate = Simulate()
    select: Select = Select()
    gate: Gate = Gate()
    cost: Cost = Cost()
    registry: Registry = Registry()
    deploy: Deploy = Deploy()
    canary: Canary = Canary()
    capacity: Capacity = Capacity()
    monitor: Monitor = Monitor()
    kfp: Kubeflow = Kubeflow()
    trigger: Trigger = Trigger()
    retrain: Retrain = Retrain()
    loop: Loop = Loop()
    state: State = State()
    local: Local = Local()

    def to_json(self) -> str:
        """The resolved tree as canonical JSON (sorted keys): what travels as a pipeline parameter."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def without_secrets(self) -> "Settings":
        """As it may be shown, in a pipeline run's parameters for one: without the state's address and its password."""
        return self.model_copy(update={"state": self.state.model_copy(update={"url": None})})

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Read what `to_json` wrote. A state's address that was left out is the one of the environment, if any.

        Raises UserError where another release wrote it: a pipeline's image and who submits must be of the same.
        """
        try:
            tree = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = "setting " + ".".join(map(str, first["loc"]))
            raise UserError(first["msg"], where, "submit with the release that the image is of (kfp.image)") from None
        url = os.environ.get(f"{ENVIRONMENT_PREFIX}STATE__URL")
        if tree.state.url is None and url:
            return tree.model_copy(update={"state": tree.state.model_copy(update={"url": url})})
        return tree

    def digest(self) -> str:
        """SHA-256 of what decides a model (not where and how it is served and watched), first 16 hex digits."""
        tree = self.model_dump(
            mode="json",
            exclude={"registry", "deploy", "canary", "capacity", "kfp", "monitor", "trigger", "loop", "state"},
        )
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def load_settings(
    file: str | Path | None = None, environment: Mapping[str, str] | None = None, assignments: Iterable[str] = ()
) -> Settings:
    """Resolve the tree. `assignments` are ``a.b=value`` with a YAML value; raises UserError naming key and nearest."""
    tree: dict[str, Any] = {}
    if file is not None:
        _merge(tree, _read_yaml(Path(file)))
    for name, value in sorted((environment or {}).items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            _assign(tree, name[len(ENVIRONMENT_PREFIX) :].lower().split("__"), value, name)
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment!r} has no '='", todo="write --set a.b=value")
        _assign(tree, key.strip().split("."), value, f"--set {key}")
    _refuse_unknown(tree, Settings, "")
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        given = "" if isinstance(first["input"], dict) else f" (given {first['input']!r})"
        raise UserError(first["msg"] + given, "setting " + ".".join(map(str, first["loc"]))) from None


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read settings ({error.strerror})", str(file)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"not valid YAML ({str(error).splitlines()[0]})", str(file)) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError("settings must be a mapping", str(file))
    return tree


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _assign(tree: dict[str, Any], path: list[str], value: str, where: str) -> None:
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"value {value!r} is not valid YAML", where) from None
    for part in path[:-1]:
        branch = tree.setdefault(part, {})
        if not isinstance(branch, dict):
            raise UserError(f"'{part}' is not a branch of the settings", where)
        tree = branch
    tree[path[-1]] = parsed


def _refuse_unknown(tree: Mapping[str, Any], section: type[BaseModel], prefix: str) -> None:
    for key, value in tree.items():
        if key not in section.model_fields:
            near = difflib.get_close_matches(str(key), section.model_fields, n=1, cutoff=0.0)[0]
            raise UserError(f"unknown setting {prefix}{key}", todo=f"the nearest is {prefix}{near}")
        annotation = section.model_fields[key].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and isinstance(value, Mapping):
            _refuse_unknown(value, annotation, f"{prefix}{key}.")
