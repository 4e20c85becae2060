"""The JSON of each command as types: what docs/exports.md promises, and what whoever draws a report may ask for.

A row of `Report.data` is a node; its keys and their types stand here, and tests hold both the commands and the page
against them. Numbers that may be undefined are None, which JSON has as null.
"""

# Without the future import: which keys may be absent is asked when these classes are made.
from typing import Any, NotRequired, TypedDict

Number = float | int | None


class FileSize(TypedDict):
    """A file that was read or written."""

    name: str
    bytes: int


class Truncated(TypedDict):
    """How many texts --truncate shortened, and by how many tokens."""

    texts: int
    tokens: int


class Fingerprints(TypedDict):
    """Fingerprints of what was read: null for what was not, or not in full."""

    intermediate: str | None
    pooler: str | None
    encoder: str | None
    model: str | None


class Facts(TypedDict):
    """What is true of a checkpoint as a whole, and where texts ran, of the run."""

    resolved: str
    revision: str | None
    storage: str
    family: str
    layout: str
    recognised_by: str
    prefix: str
    layers: int
    hidden_size: int | None
    intermediate_size: int | None
    activation: str | None
    parameters: int
    dtypes: dict[str, int]
    files: list[FileSize]
    bytes_read: int
    bytes_total: int
    notes: list[str]
    backend: NotRequired[str]
    device: NotRequired[str]
    dtype: NotRequired[str]
    tokenizer: NotRequired[str]
    tokenizer_notes: NotRequired[list[str]]
    truncated: NotRequired[Truncated]
    ablated: NotRequired[str]
    recipe: NotRequired[str]
    fingerprint: NotRequired[Fingerprints]


class Finding(TypedDict):
    """What a rule has found; `evidence` is the rule's own."""

    rule: str
    severity: str
    part: str | None
    message: str
    evidence: dict[str, Any]
    hint: str


# ------------------------------------------------------------------------------------------------ inspect, export


class Tensor(TypedDict):
    """A tensor, with the statistics of `STATISTICS` by name; `stored_as` is the type that the file has it in."""

    name: str
    stored_name: str
    dtype: str
    stored_as: str
    shape: list[int]
    statistics: dict[str, Number]
    fingerprint: str | None


class AnyTensor(Tensor):
    """A tensor of a checkpoint and where it stands: `layer 3`, `embeddings`, `pooler` or `heads`, and why it has no
    numbers, where it has none."""

    place: str
    refusal: str | None


class NeuronNorm(TypedDict):
    """A row of a matrix by its norm."""

    neuron: int
    norm: Number
    robust_z: Number


class ExtremeNeurons(TypedDict):
    """The rows of a matrix whose norms are most extreme."""

    largest: list[NeuronNorm]
    smallest: list[NeuronNorm]
    outlying: list[NeuronNorm]


class Part(TypedDict):
    """A module: what it is, what its numbers allow one to say, its tensors."""

    label: str
    role: str
    layer: int | None
    stack: str | None
    index: int | None
    activation: str | None
    verdict: str | None
    tensors: list[Tensor]
    neurons: NotRequired[ExtremeNeurons]


class Inspection(TypedDict):
    """`inspect`."""

    model: str
    facts: Facts
    parts: list[Part]
    tensors: NotRequired[list[AnyTensor]]
    findings: list[Finding]
    version: str


class WrittenTensor(TypedDict):
    """A tensor in a file of `export` or `graft`, and how it was stored before."""

    name: str
    stored_name: str
    dtype: str
    stored_dtype: str
    shape: list[int]
    source: NotRequired[str]


class WrittenFile(TypedDict):
    """The file of `export`; `beside` are small files that the checkpoint's own file carries, written beside it."""

    path: str
    bytes: int
    metadata: dict[str, str]
    tensors: list[WrittenTensor]
    beside: NotRequired[list[str]]


class Exportation(TypedDict):
    """`export`."""

    model: str
    facts: Facts
    written: WrittenFile
    findings: list[Finding]
    version: str


# ------------------------------------------------------------------------------------------------ pool, activations


class VectorStatistics(TypedDict):
    """Statistics of one vector, all None where an entry is not finite."""

    norm: Number
    mean: Number
    std: Number
    min: Number
    max: Number
    saturated: Number


class Vector(TypedDict):
    """A vector of a text."""

    values: list[Number]
    statistics: VectorStatistics


class Dimension(TypedDict):
    """A number of a vector."""

    dimension: int
    value: Number


class Ablation(TypedDict):
    """Neurons that were taken out: to zero, or to their means over a scan in the folder `means`."""

    neurons: str
    count: int
    to: str
    means: str | None


class UntouchedVectors(TypedDict):
    """A text's vectors by the model as it is."""

    pooled: Vector | None
    cls: Vector
    mean: Vector
    sentence: Vector | None


class VectorChange(TypedDict):
    """How far a vector moved: the norm of the change, that over the vector's own, and the cosine."""

    norm: Number
    relative: Number
    cosine: Number


class MovedDimension(TypedDict):
    """A number of a vector by the model as it is, and with neurons taken out."""

    dimension: int
    untouched: Number
    ablated: Number
    change: Number


class Text(TypedDict):
    """A text, its tokens and its vectors; with --ablate also those of the model as it is, and what changed."""

    text: str
    tokens: list[str]
    truncated: int
    pooled: Vector | None
    cls: Vector
    mean: Vector
    sentence: Vector | None
    strongest: list[Dimension]
    untouched: NotRequired[UntouchedVectors]
    change: NotRequired[VectorChange]
    moved: NotRequired[list[MovedDimension]]


class Similarity(TypedDict, total=False):
    """Cosines of every two texts, by each of the vectors; empty for one text."""

    pooled: list[list[Number]] | None
    cls: list[list[Number]]
    mean: list[list[Number]]
    sentence: list[list[Number]] | None


class Pooling(TypedDict):
    """`pool`."""

    model: str
    facts: Facts
    texts: list[Text]
    similarity: Similarity
    ablation: NotRequired[Ablation]
    findings: list[Finding]
    version: str


class LayerStatistics(TypedDict):
    """Statistics of what a layer's intermediate put out."""

    count: int
    mean: Number
    std: Number
    min: Number
    max: Number
    above_zero: Number
    near_zero: Number
    energy_neurons: int | None
    never_above_zero: int


class TopNeuron(TypedDict):
    """A neuron of most energy."""

    neuron: int
    rms: Number
    mean: Number
    max: Number
    above_zero: Number


class LayerChange(TypedDict):
    """Root mean squares of a layer's activations by the model as it is and with neurons taken out, and of the change.

    `relative` is that of the change over that of the model as it is; `neurons_ablated` counts those taken out of it.
    """

    untouched: Number
    ablated: Number
    change: Number
    relative: Number
    neurons_ablated: int


class MovedNeuron(TypedDict):
    """A neuron that moved: its means, and the root mean square of its change over the tokens."""

    neuron: int
    untouched: Number
    ablated: Number
    change: Number
    relative: Number


class Layer(TypedDict):
    """What a layer's intermediate put out; with --ablate also by the model as it is, and what changed."""

    label: str
    layer: int | None
    shapes: str
    statistics: LayerStatistics
    top: list[TopNeuron]
    untouched: NotRequired[LayerStatistics]
    change: NotRequired[LayerChange]
    moved: NotRequired[list[MovedNeuron]]


class Activity(TypedDict):
    """A neuron and what it put out."""

    neuron: int
    value: Number


class TokenActivity(TypedDict):
    """The strongest neurons of a token in a layer."""

    label: str
    text: int
    token: str
    strongest: list[Activity]


class Heat(TypedDict):
    """Root mean squares, layers × tokens."""

    layers: list[str]
    tokens: list[str]
    rms: list[list[Number]]


class Activations(TypedDict):
    """The part of `activations` that a page has, too."""

    layers: list[Layer]
    tokens: list[TokenActivity]
    heat: Heat | None


class Activation(Activations):
    """`activations`."""

    model: str
    facts: Facts
    ablation: NotRequired[Ablation]
    findings: list[Finding]
    version: str


# ------------------------------------------------------------------------------------------------ report


class NormalCurve(TypedDict):
    """What a normal distribution would put into bins around x, as shares."""

    x: list[Number]
    share: list[Number]


class Histogram(TypedDict):
    """Weights in bins."""

    width: float
    start: float
    counts: list[int]
    below: int
    above: int
    normal: NormalCurve | None


class Outlier(TypedDict):
    """A row whose norm lies far from the rest."""

    neuron: int
    norm: float
    robust_z: Number


class RowNorms(TypedDict):
    """Norms of rows in bins, and the outliers."""

    start: float
    width: float
    counts: list[int]
    above: int
    undefined: int
    outlying: int
    outlying_beyond: float
    outliers: list[Outlier]


class NoiseCurve(TypedDict):
    """The singular values of random numbers at some ranks, 1 the first."""

    ranks: list[int]
    sigmas: list[float]


class Spectrum(TypedDict):
    """All singular values of a matrix, and those of noise."""

    edge: float | None
    sigmas: list[float]
    noise: NoiseCurve


class Pictures(TypedDict):
    """What is drawn of a matrix."""

    histogram: Histogram | None
    row_norms: RowNorms | None
    spectrum: Spectrum | None


class PicturedPart(Part, Pictures):
    """A part with what is drawn of it."""


class LayerDrawing(TypedDict):
    """What the drawing of a layer needs besides the facts."""

    position: str
    gated: bool
    as_bert: bool
    vocabulary: int | None
    pooler: list[int] | None
    pooler_activation: str | None


class WrittenPage(TypedDict):
    """The page or figure that was written."""

    path: str
    bytes: int
    figure: str | None


class Page(TypedDict):
    """`report`, and the data in a page."""

    model: str
    facts: Facts
    layer: LayerDrawing
    parts: list[PicturedPart]
    texts: list[Text]
    similarity: Similarity
    activations: Activations | None
    findings: list[Finding]
    version: str
    written: NotRequired[WrittenPage]


# ------------------------------------------------------------------------------------------------ extract


class PlannedRun(TypedDict):
    """What a run was expected to come to, and what its disk has left; None of stdin."""

    documents: int | None
    tokens: int | None
    bytes: int | None
    exact: bool
    shards: int
    free: int | None


class WrittenRows(TypedDict):
    """A tensor over all shards."""

    name: str
    rows: str
    shape: list[int]
    dtype: str


class WrittenCopy(TypedDict):
    """The copy of a tensor in the order of neurons."""

    name: str
    file: str
    bytes: int


class WrittenRun(TypedDict):
    """What lies in the folder."""

    path: str
    complete: bool
    shards: int
    documents: int
    tokens: int
    truncated: int
    skipped: int
    bytes: int
    tensors: list[WrittenRows]
    by_neuron: list[WrittenCopy]


class RunOutcome(TypedDict):
    """What this command did."""

    resumed: bool
    documents: int
    tokens: int
    seconds: float
    tokens_per_second: Number


class Extraction(TypedDict):
    """`extract`."""

    model: str
    facts: Facts
    planned: PlannedRun
    written: WrittenRun
    run: RunOutcome | None
    findings: list[Finding]
    version: str


class Merging(TypedDict):
    """`merge`."""

    parts: list[str]
    written: WrittenRun
    findings: list[Finding]
    version: str


# ------------------------------------------------------------------------------------------------ diff, graft


class Side(TypedDict):
    """One of two checkpoints."""

    model: str
    facts: Facts


class Difference(TypedDict):
    """How a tensor differs."""

    identical: bool
    changed: int
    nonfinite_mismatch: int
    change: Number
    cosine: Number
    norm: Number
    distance: Number
    largest: Number
    place: list[int] | None
    rounding: str | None
    rounded: str | None
    steps: Number
    rank: int | None
    full_rank: int | None
    explained: Number
    effective_rank: Number


class ComparedTensor(TypedDict):
    """A tensor that both have."""

    name: str
    place: str
    piece: str
    shape: list[int]
    rows: int | None
    dtype_a: str
    dtype_b: str
    stored_as_a: str
    stored_as_b: str
    stored_name_a: str
    stored_name_b: str
    difference: Difference | None


class ChangedNeuron(TypedDict):
    """A row that changed."""

    neuron: int
    distance: Number
    change: Number


class PoolerVerdicts(TypedDict, total=False):
    """The verdicts on the poolers of both, which only a pooler's node has."""

    verdict_a: str | None
    verdict_b: str | None


class ComparedPart(PoolerVerdicts):
    """A part that one of the two has."""

    label: str
    role: str
    layer: int | None
    stack: str | None
    index: int | None
    result: str
    shape_a: list[int] | None
    shape_b: list[int] | None
    tensors: list[ComparedTensor]
    neurons: list[ChangedNeuron]


class Place(TypedDict):
    """A layer or an end of the model as a whole."""

    place: str
    tensors: int
    identical: int
    change: Number
    attention: Number
    intermediate: Number
    output: Number


class Summary(TypedDict):
    """A comparison in a few numbers."""

    tensors: int
    identical: int | None
    apart: int
    tolerance: float
    further: int
    within: bool
    beyond: list[str]


class Lone(TypedDict):
    """A tensor that only one has."""

    name: str
    dtype: str
    shape: list[int]


class Reshaped(TypedDict):
    """A tensor that has another shape in the other."""

    name: str
    a: list[int]
    b: list[int]


class Apart(TypedDict):
    """What cannot be compared."""

    reshaped: list[Reshaped]
    only_a: list[Lone]
    only_b: list[Lone]


class Distance(TypedDict):
    """How far a vector moved."""

    change: Number
    cosine: Number


class MovedText(TypedDict):
    """How far a text's vectors moved."""

    text: str
    tokens: list[str]
    pooled: Distance | None
    cls: Distance | None
    mean: Distance | None


class MovedPart(Distance):
    """How far the activations of a part moved."""

    label: str


class MovedTexts(TypedDict):
    """What two models made of texts."""

    texts: list[MovedText]
    activations: list[MovedPart]
    unlike: str | None
    notes: list[str]


class DifferingSetting(TypedDict):
    """A setting beside the weights, in words; null where one of the two has nothing for it."""

    setting: str
    a: str | None
    b: str | None


class Comparison(TypedDict):
    """`diff`."""

    a: Side
    b: Side
    summary: Summary
    parts: list[ComparedPart]
    elsewhere: list[ComparedTensor]
    places: list[Place]
    apart: Apart
    settings: list[DifferingSetting]
    texts: MovedTexts | None
    findings: list[Finding]
    version: str


class WrittenFolder(TypedDict):
    """The folder of `graft`."""

    path: str
    files: list[FileSize]
    metadata: dict[str, str]
    tensors: list[WrittenTensor]


class Grafting(TypedDict):
    """`graft`."""

    donor: Side
    recipient: Side
    written: WrittenFolder
    findings: list[Finding]
    version: str


# ------------------------------------------------------------------------------------------------ verify


class Agreement(TypedDict):
    """How far a part's numbers are from transformers'."""

    part: str
    numpy: Number
    torch: Number
    alone: Number
    batch: Number
    transformers_error: Number
    largest_value: Number
    limit: Number
    within: str | None


class Verification(TypedDict):
    """`verify`."""

    model: str
    facts: Facts
    texts: list[str]
    parts: list[Agreement]
    holds: bool
    findings: list[Finding]
    version: str


# ------------------------------------------------------------------------------------------------ recipe: tools


class ToolMade(TypedDict):
    """What a tool makes of a folder's settings; None where it makes nothing, cannot be told, or the caller has to say.

    `length` is None for no limit, `pooling` empty for a vector a token, `version` None where no release was read.
    """

    tool: str
    version: str | None
    fails: str
    length: int | None
    overflow: str | None
    lower: bool | None
    accents: bool | None
    special: list[str] | None
    pooling: list[str] | None
    dense: str | None
    layer_norm: str | None
    modules: str | None
    normalized: bool | None
    prompt: str | None
    cut: int | None
    differs: list[str]
    settable: list[str]
    notes: list[str]


# ------------------------------------------------------------------------------------------------ explain


class ExplainedModule(TypedDict):
    """One of the two modules, all of its layers together."""

    count: int
    inputs: int | None
    outputs: int | None
    activation: str | None
    biased: bool
    parameters: int
    verdicts: dict[str, int]
    edges: list[Number] | None


class ClassSource(TypedDict):
    """A class of the installed transformers."""

    name: str
    file: str
    line: int
    code: str
    takes: list[str]


class Library(TypedDict):
    """What the installed transformers has for a family."""

    version: str | None
    up_projection: ClassSource | None
    pooling: ClassSource | None
    with_pooler: list[str]
    without_pooler: list[str]


class Step(TypedDict):
    """A tensor on the way of a text."""

    name: str
    shape: list[int]
    values: list[Number]


class Worked(TypedDict):
    """One output number worked out."""

    unit: int
    product: Number
    bias: Number
    before: Number
    after: Number


class ComparedActivation(TypedDict):
    """The activation in force against two others."""

    relu: Number
    tanh: Number
    gelu: Number
    negative: Number
    lowest: Number


class PooledText(TypedDict):
    """What the pooler made of the text, beside the two vectors it is mistaken for."""

    lowest: Number
    highest: Number
    norm: Number
    saturated: Number
    to_first: Number
    to_mean: Number
    first_to_mean: Number
    from_first: Number


class ExplainedRun(TypedDict):
    """A text through the model."""

    text: str
    tokens: list[str]
    truncated: int
    backend: str
    rows_are_tokens: bool
    token: int
    up_projection: list[Step]
    neuron: Worked
    compared: ComparedActivation
    alone: bool | None
    hidden: list[int]
    pooling: list[Step]
    dimension: Worked | None
    pooled: PooledText | None


class ExplainedNumbers(TypedDict):
    """What an explanation rests on, in no language."""

    family: str
    native: bool
    gated: bool
    nsp: bool
    layers: int
    called: int
    hidden_size: int | None
    intermediate_size: int | None
    parameters: int
    up_projection: ExplainedModule | None
    pooler: ExplainedModule | None
    absence: list[str] | None
    saved_by: list[str]
    next_sentence_head: str | None
    pools_by: list[str]
    library: Library
    run: ExplainedRun | None
    refusal: str | None


class Section(TypedDict):
    """A title and its blocks, each with its `kind` and what belongs to that."""

    name: str
    title: str
    blocks: list[dict[str, Any]]


class Explanation(TypedDict):
    """`explain`."""

    model: str
    facts: Facts
    module: str
    language: str
    numbers: ExplainedNumbers
    claims: dict[str, bool | None]
    sections: list[Section]
    findings: list[Finding]
    version: str


# ------------------------------------------------------------------------------------------------ recipe


class SaidElsewhere(TypedDict):
    """What another file says of a setting, which lost or agrees."""

    value: Any
    file: str
    key: str


class RecipeSetting(TypedDict):
    """A setting of a recipe: its value, and the file and key it is from, or whose default it is."""

    setting: str
    value: Any
    file: str | None
    key: str | None
    default: str | None
    others: list[SaidElsewhere]


class RecipeStep(TypedDict):
    """A module behind the transformer, with the settings of its kind."""

    kind: str
    path: str
    settings: dict[str, Any]


class RecipeFacts(TypedDict):
    """Where a recipe was read, and what it comes to in a line."""

    resolved: str
    revision: str | None
    notes: list[str]
    recipe: str


class RecipeReport(TypedDict):
    """`recipe`."""

    model: str
    facts: RecipeFacts
    declared: bool
    recipe: list[RecipeSetting]
    steps: list[RecipeStep]
    prompts: dict[str, str]
    width: int | None
    tools: list[ToolMade]
    findings: list[Finding]
    version: str


# ------------------------------------------------------------------------------------------------ adapters


class Factor(TypedDict):
    """A tensor of an adapter."""

    name: str
    dtype: str
    shape: list[int]


class AdapterTarget(TypedDict):
    """A matrix that is adapted; the norms are None where they were not taken, or are not known."""

    label: str
    module: str
    adapter: str
    layer: int | None
    rank: int | None
    scaling: Number
    a: Factor | None
    b: Factor | None
    others: list[Factor]
    verdict: str | None
    frobenius: Number
    sigma_max: Number
    stable_rank: Number
    a_norm: Number
    b_norm: Number


class AdapterFacts(TypedDict):
    """What is true of an adapter as a whole."""

    resolved: str
    revision: str | None
    storage: str
    base_model: str | None
    method: str
    rank: int | None
    ranks: list[int]
    alpha: Number
    scaling: Number
    rslora: bool
    dora: bool
    target_modules: list[str]
    layers: list[int]
    modules_to_save: list[str]
    parameters: int
    dtypes: dict[str, int]
    files: list[FileSize]
    bytes_read: int
    bytes_total: int
    notes: list[str]


class AdapterReport(TypedDict):
    """`inspect` of an adapter."""

    model: str
    facts: AdapterFacts
    targets: list[AdapterTarget]
    whole: list[Factor]
    findings: list[Finding]
    version: str


# ------------------------------------------------------------------------------------------------ lens


class RandomDirections(TypedDict):
    """What random directions of the same norm come to at the same rank of a list: half of them, and 95 %, lie below."""

    median: Number
    p95: Number


class VocabularyEntry(TypedDict):
    """An entry of the vocabulary and its number in a list."""

    token: str
    id: int
    value: Number
    random: RandomDirections


class NeuronWordLists(TypedDict):
    """What a neuron's output column does to the entries of the vocabulary, through a named transform.

    Of each list so many lie beyond 95 % of random directions at their rank.
    """

    transform: str
    promoted: list[VocabularyEntry]
    suppressed: list[VocabularyEntry]
    promoted_beyond: int
    suppressed_beyond: int


class NeuronVocabulary(TypedDict):
    """A neuron in the vocabulary; null is what the checkpoint has not the tensors for, and `notes` say why."""

    nearest: list[VocabularyEntry] | None
    nearest_beyond: int | None
    head: NeuronWordLists | None
    words: NeuronWordLists | None
    notes: list[str]


class LensNeuron(NeuronVocabulary):
    """The same with the neuron's name and its part."""

    name: str
    label: str


class LensGuess(VocabularyEntry):
    """An entry of a hidden state's list: its probability, without a head its product less the mean of all."""

    logit: Number
    untouched: Number | None


class LensWord(TypedDict):
    """Where the wanted word stands, from rank 1; `untouched…` are its rank and probability before ablation."""

    token: str
    rank: int
    logit: Number
    probability: Number
    untouched: int | None
    untouched_probability: Number


class LensLayer(TypedDict):
    """A hidden state after a layer, null for what the embeddings put out; `entropy` is in nats, null without a head."""

    layer: int | None
    name: str
    norm: Number
    entropy: Number | None
    beyond: int
    entries: list[LensGuess]
    word: LensWord | None
    untouched: str | None


class LensPosition(TypedDict):
    """A token that was looked at, after each layer."""

    position: int
    token: str
    layers: list[LensLayer]


class LensText(TypedDict):
    """A text and the tokens that were looked at."""

    text: str
    tokens: list[str]
    positions: list[LensPosition]


class LensFacts(TypedDict):
    """By which transform hidden states were read, null without texts, and what random directions were drawn."""

    transform: str | None
    is_head: bool | None
    directions: int
    seed: int


class LensReport(TypedDict):
    """`lens`."""

    model: str
    facts: Facts
    lens: LensFacts
    texts: list[LensText]
    neurons: list[LensNeuron]
    ablation: NotRequired[Ablation]
    findings: list[Finding]
    version: str


# ------------------------------------------------------------------------------------------------ neurons


class Stamp(TypedDict):
    """How far the activations of some texts of a corpus are from transformers', and the activation in force."""

    texts: int
    parts: int
    activation: str | None
    largest_difference: float
    limit: float
    holds: bool


class ScanSizes(TypedDict):
    """Bytes to a neuron of its examples by reference, and of its share of the texts; null where there are none."""

    examples: float
    texts: float | None


class ScanCounts(TypedDict):
    """What a scan read, and how large what it keeps of a neuron is."""

    path: str
    complete: bool
    documents: int
    tokens: int
    truncated: int
    skipped: int
    thresholds: list[float]
    bytes_a_neuron: ScanSizes | None
    verify: Stamp | None
    ablated: NotRequired[str]
    ablation: NotRequired[Ablation]


class ScannedLayer(TypedDict):
    """A layer's neurons in counts; `never` by threshold, the first of which is zero before the activation."""

    label: str
    layer: int
    neurons: int
    never: dict[str, int]
    always: int
    mean: Number
    max: Number


class ScannedNeuron(TypedDict):
    """A neuron's numbers over a corpus; `over` are shares of tokens above each threshold."""

    name: str
    layer: int
    neuron: int
    mean: Number
    std: Number
    min: Number
    max: Number
    above_zero: Number
    before_above_zero: Number
    over: dict[str, Number]
    selectivity: Number


class NeuronScanned(TypedDict):
    """`neurons scan` and `neurons merge`."""

    model: str
    scan: ScanCounts
    layers: list[ScannedLayer]
    findings: list[Finding]
    version: str


class MovedScanNeuron(TypedDict):
    """A neuron in two scans of one corpus: means, deviations, and by how many of the other's deviations they moved."""

    name: str
    layer: int
    neuron: int
    mean: Number
    mean_beside: Number
    std: Number
    std_beside: Number
    mean_moved: Number
    std_moved: Number


class NeuronListing(TypedDict):
    """`neurons list`; with --beside also the neurons that differ most from those of another scan."""

    model: str
    scan: ScanCounts
    beside: NotRequired[ScanCounts]
    layers: list[ScannedLayer]
    neurons: list[ScannedNeuron]
    moved: NotRequired[list[MovedScanNeuron]]
    findings: list[Finding]
    version: str


class NeuronExample(TypedDict):
    """A token on which a neuron was seen, with the pieces around it; `place` is its own among `tokens`."""

    document: int
    file: str
    row: int
    position: int
    value: Number
    tokens: list[str]
    place: int


class NeuronStretch(TypedDict):
    """A neuron's mean over the tokens at some positions; `last` is null where open."""

    first: int
    last: int | None
    tokens: int
    mean: Number


class NeuronTogether(TypedDict):
    """Another neuron: strongest tokens that both have, and correlation over the tokens drawn."""

    name: str
    shared: int
    correlation: Number


class NeuronBeside(TypedDict):
    """The same neuron in another scan: its strongest tokens there, and the pieces that are strongest in both."""

    path: str
    strongest: list[NeuronExample]
    pieces: list[str]
    share: Number


class WrittenAtlas(TypedDict):
    """The page of all neurons."""

    path: str
    bytes: int
    layers: int
    neurons: int
    bytes_a_neuron: float


class NeuronAtlas(TypedDict):
    """`neurons atlas`."""

    model: str
    scan: ScanCounts
    written: WrittenAtlas
    findings: list[Finding]
    version: str


class NeuronCard(TypedDict):
    """`neurons show`."""

    model: str
    scan: ScanCounts
    neuron: ScannedNeuron
    label: str
    deciles: list[Number]
    positions: list[NeuronStretch]
    strongest: list[NeuronExample]
    negative: list[NeuronExample]
    of_deciles: list[NeuronExample | None]
    random: list[NeuronExample]
    nearest: list[VocabularyEntry] | None
    nearest_beyond: int | None
    head: NeuronWordLists | None
    words: NeuronWordLists | None
    notes: list[str]
    together: list[NeuronTogether]
    beside: list[NeuronBeside]
    findings: list[Finding]
    version: str


# ------------------------------------------------------------------------------------------------ neurons screen


class ScreenCounts(TypedDict):
    """What was screened and how; effects are in `unit`, the correlations are Spearman's, null where too few re-ran."""

    output: str
    unit: str
    instead: str
    texts: int
    tokens: int
    neurons: int
    directions: int
    spread: Number
    seconds: Number
    seconds_of_one: Number
    times_faster: Number
    reruns: int
    correlation: Number
    correlation_of_strongest: Number
    correlation_of_drawn: Number


class ScreenedLayer(TypedDict):
    """A layer's neurons together, and the estimated effect of each; `share` is of the sum of all squared effects."""

    layer: int
    neurons: int
    share: Number
    median: Number
    largest: Number
    strongest: str
    effects: list[Number]


class ScreenedNeuron(TypedDict):
    """A neuron's effect: estimated, its standard error, what a re-run without it gave, that over the spread.

    `rank` is its place by the estimate, from 1; `exact` and `of_spread` are null of a neuron that was not re-run.
    """

    name: str
    layer: int
    neuron: int
    rank: int
    estimate: Number
    error: Number
    exact: Number
    of_spread: Number
    drawn: bool


class NeuronScreening(TypedDict):
    """`neurons screen`."""

    model: str
    facts: Facts
    screen: ScreenCounts
    layers: list[ScreenedLayer]
    neurons: list[ScreenedNeuron]
    findings: list[Finding]
    version: str


# ------------------------------------------------------------------------------------------------ neurons probe


class ProbeFacts(TypedDict):
    """What was probed for, on what: counts of what was learnt from, held out and left out, and the settings.

    `of` is words or texts, of which `items` were learnt from; `unknown` are held-out items with a label that nothing
    learnt from has, which count as wrong. `written` is the file of arrays, null without one.
    """

    files: list[str]
    label_field: str
    words_field: str | None
    of: str
    pieces: str
    before: bool
    texts: int
    held_out_texts: int
    items: int
    held_out_items: int
    tokens: int
    unlabelled: int
    unknown: int
    without_pieces: int
    truncated: int
    cut: int
    skipped: int
    held_out: float
    ridge: float
    seed: int
    backend: str
    device: str
    dtype: str
    majority: Number
    control_majority: Number
    notes: list[str]
    written: str | None


class ProbedLabel(TypedDict):
    """A label: items learnt from and held out, those that the control gave it, and what the best layer gets right."""

    label: str
    items: int
    held_out_items: int
    control_items: int
    recall: Number


class ProbedLayer(TypedDict):
    """A layer's probe: shares of held-out items that are right, in the task and in its control."""

    label: str
    layer: int
    neurons: int
    constant: int
    accuracy: Number
    control_accuracy: Number
    selectivity: Number
    majority: Number


class ProbeSelection(TypedDict):
    """What probes get right that look at some neurons of a layer: the first and last of rankings, and drawn ones."""

    label: str
    layer: int
    neurons: int
    linear: Number
    linear_last: Number
    probeless: Number
    probeless_last: Number
    random: Number


class ProbedNeuron(TypedDict):
    """A neuron that tells a label: `difference` of means in standard deviations, `weight` in the linear probe.

    `difference_null` and `weight_null` are what 95 % of the layer's neurons stay below for the control's label; `mean`
    is over the label's items, `elsewhere` over all others.
    """

    name: str
    layer: int
    neuron: int
    label: str
    difference: Number
    difference_null: Number
    weight: Number
    weight_null: Number
    mean: Number
    elsewhere: Number
    probeless: Number


class NeuronProbing(TypedDict):
    """`neurons probe`."""

    model: str
    probe: ProbeFacts
    labels: list[ProbedLabel]
    layers: list[ProbedLayer]
    selections: list[ProbeSelection]
    neurons: list[ProbedNeuron]
    findings: list[Finding]
    version: str
