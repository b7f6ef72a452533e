"""Studies of the expected effects of knowledge-distillation plug-ins, on scikit-learn's digits.

Within a study the same clients hold the same samples, and only the named settings differ. Where an
effect could not be measured as it was published, the remark says what is measured instead.
"""

from fedkd.cli.studies.study import Study, StudyClaim

MEAN = "dsfl strategy.aggregation=mean"
BASE = (
    "data=digits",
    "clients=10",
    "models=[mlp]",
    "test.global_size=300",
    "public.size=300",
    "rounds=5",
    "train.epochs=5",
    "train.batch_size=16",
    "distill.epochs=3",
    "distill.batch_size=32",
)
SKEWED = ("partition=inner_dirichlet", "partition.alpha=0.1", "samples_per_client=80")
MILD = ("partition=inner_dirichlet", "partition.alpha=1", "samples_per_client=40")


def _claim(text: str, figure: str, ours: str, theirs: str, setting: str = "") -> StudyClaim:
    return StudyClaim(text, figure, (ours, setting), (theirs, setting))


GATE = Study(
    name="gate",
    title="Data-partitioned transfer (`distill.confidence_gate`)",
    base=(*BASE, *SKEWED),
    baseline="local_only",
    methods=f"plain={MEAN}, gated={MEAN} distill.confidence_gate=true",
    figures=("personal_accuracy", "global_accuracy", "personal_negative_transfer"),
    claims=(
        _claim(
            "The gate lowers the share of clients harmed",
            "personal_negative_transfer",
            "plain",
            "gated",
        ),
    ),
    remark="Harmed: below the client's own accuracy in the local-only baseline, on its own"
    " distribution.",
)

MARGIN = Study(
    name="margin",
    title="Margin weights (`distill.margin_weights`)",
    base=(*BASE, *MILD, "public_data=noise", "public.reserved=300"),
    methods=f"plain={MEAN}, margin={MEAN} distill.margin_weights=true",
    grid=("public.foreign_share=0.25,0.75",),
    claims=(
        _claim(
            "They pay where three quarters are noise", "global_accuracy", "margin", "plain", "0.75"
        ),
        StudyClaim(
            "Their gain grows with the share of noise",
            "global_accuracy",
            ("margin", "0.75"),
            ("plain", "0.75"),
            beyond=(("margin", "0.25"), ("plain", "0.25")),
        ),
    ),
    remark="Samples out of distribution: synthetic noise.",
)

RELATION = Study(
    name="relation",
    title="Relational loss (`distill.relational_weight`)",
    base=(*BASE, *MILD),
    methods=f"kl={MEAN}, relation={MEAN} distill.relational_weight=1",
    claims=(
        _claim("A relational term beside KL gains something", "global_accuracy", "relation", "kl"),
    ),
)

LOSS = Study(
    name="loss",
    title="Reverse and skewed KL (`distill.loss`)",
    base=(*BASE, *MILD),
    methods=f"kl={MEAN}, reverse_kl={MEAN} distill.loss=reverse_kl, skewed_kl={MEAN}"
    " distill.loss=skewed_kl",
    figures=("personal_accuracy", "global_accuracy", "gap"),
    claims=(
        _claim("Reverse KL memorizes less", "gap", "kl", "reverse_kl"),
        _claim("Skewed KL memorizes less", "gap", "kl", "skewed_kl"),
    ),
    remark="Memorization is measured by a proxy: the students' cross-entropy on tests of their own"
    " distributions less"
    " that of their private training in the same round. No membership inference was run.",
)

CHOICE = Study(
    name="choice",
    title="Core set and competitive re-query (`public.sampling`)",
    base=(*BASE, *MILD, "public.size=100", "rounds=16"),
    methods=f"random={MEAN} public.per_round=25, core_set={MEAN} public.per_round=20"
    " public.sampling=core_set,"
    f" disputed={MEAN} public.per_round=20 public.sampling=disagreement",
    figures=("personal_accuracy", "global_accuracy", "bytes_up"),
    claims=(
        _claim(
            "The core set is above random at equal bytes", "global_accuracy", "core_set", "random"
        ),
        _claim(
            "Re-query of what is disputed is above random at equal bytes",
            "global_accuracy",
            "disputed",
            "random",
        ),
    ),
    remark="Both rules ask about all 100 samples in the first round and then about 20 (a fifth):"
    " 400 answers in sixteen"
    " rounds. Random asks about 25 each round: 400 answers as well.",
)

VIEWS = Study(
    name="views",
    title="Disagreement-seeking augmentations (`public.augmented_views`)",
    base=(*BASE, *MILD),
    methods=f"random_view={MEAN} distill.student_augmentation=shift,"
    f" hard={MEAN} public.augmented_views=3",
    figures=("personal_accuracy", "global_accuracy", "bytes_up"),
    claims=(_claim("Hard views beat random ones", "global_accuracy", "hard", "random_view"),),
    remark="This is the balanced test; the shifted one is below. Three views cost three times the"
    " bytes up.",
)

DUAL = Study(
    name="dual",
    title="Dual head (`heads=dual`)",
    base=(*BASE, *SKEWED),
    methods=f"one_head={MEAN}, dual={MEAN} heads=dual",
    claims=(
        _claim(
            "Two heads are better on the own distribution", "personal_accuracy", "dual", "one_head"
        ),
        _claim("Two heads are better on the balanced test", "global_accuracy", "dual", "one_head"),
    ),
)

STAGES = Study(
    name="stages",
    title="Layered self-distillation (`heads=self_distillation`)",
    base=(
        *BASE,
        *MILD,
        "models=[cnn]",
        "samples_per_client=20",
        "train.epochs=20",
        "train.learning_rate=0.003",
        "distill.learning_rate=0.003",
    ),
    methods=f"plain={MEAN}, stages={MEAN} heads=self_distillation",
    claims=(
        _claim(
            "With 20 samples a client, heads on stages help", "global_accuracy", "stages", "plain"
        ),
    ),
)

SERVER = Study(
    name="server",
    title="Routed teachers and a learned aggregator (`strategy=routed|learned`)",
    base=(*BASE, *SKEWED),
    methods=f"uniform={MEAN}, routed=routed public.labeled=true, learned=learned"
    " public.labeled=true",
    claims=(
        _claim("Specialists: the router is above uniform", "global_accuracy", "routed", "uniform"),
        _claim(
            "Specialists: the learned aggregator is above uniform",
            "global_accuracy",
            "learned",
            "uniform",
        ),
    ),
    remark="Both see the labels of the public set, which uniform fusion does not. Every client is"
    " seen here; one"
    " that is not is asked about below.",
)

PLUGINS = (GATE, MARGIN, RELATION, LOSS, CHOICE, DUAL, SERVER, STAGES, VIEWS)
