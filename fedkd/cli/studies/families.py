"""Studies of families of methods: an ordering of each, on real images, published where one is.

Sizes are small: each study takes minutes on one core. Remarks say what differs from the papers.
"""

from fedkd.cli.studies.study import Study, StudyClaim

BASE = (
    *("clients=10", "test.global_size=1000", "test.private_size=100"),
    *("partition=pathological", "public.size=0"),
)
TRAINED = (
    *("train.epochs=1", "train.batch_size=10", "train.optimizer=sgd", "train.learning_rate=0.01"),
)
"""As in the papers of the HtFLlib family."""
PROTO = "strategy.prototype_weight=10 strategy.prediction=nearest"

PROTOTYPES = Study(
    name="prototypes",
    title="Trainable prototypes beat averaged ones on pathological splits",
    data="mnist",
    base=(*BASE, "samples_per_client=100", "models=[mlp,cnn]", "rounds=20", *TRAINED),
    methods=f"local_only, fedproto=fedproto strategy.width=64 strategy.mean=plain {PROTO},"
    " fedproto_head=fedproto strategy.width=64 strategy.mean=plain strategy.prototype_weight=10,"
    " fedtgp=fedtgp strategy.width=64",
    claims=(
        StudyClaim(
            "FedTGP is above FedProto, both by the nearest prototype",
            "personal_accuracy",
            ("fedtgp", ""),
            ("fedproto", ""),
        ),
        StudyClaim(
            "FedTGP is above FedProto by its last layer",
            "personal_accuracy",
            ("fedtgp", ""),
            ("fedproto_head", ""),
        ),
        StudyClaim(
            "FedTGP is above local training",
            "personal_accuracy",
            ("fedtgp", ""),
            ("local_only", ""),
        ),
    ),
    remark="Published (FedTGP, arXiv 2401.03230, CIFAR-10, two classes a client, 20 clients, eight"
    " architectures, over a thousand rounds, best round by the test set): FedTGP 90.02, FedProto"
    " 83.39. Here: MNIST, ten clients, two architectures whose features are pooled to 64 numbers,"
    " 20 rounds, the last of them.",
)

COMPANIONS = Study(
    name="companions",
    title="A small shared model helps clients whose own models differ",
    data="mnist",
    base=(
        *BASE,
        *("partition=dirichlet", "partition.alpha=0.5"),
        *("samples_per_client=60", "models=[mlp,cnn]", "train.epochs=2"),
    ),
    grid=("rounds=10,100",),
    methods="local_only, fml, fedkd",
    claims=tuple(
        StudyClaim(
            f"{name} is above local training on {where}, {rounds} rounds",
            figure,
            (method, rounds),
            ("local_only", rounds),
        )
        for rounds in ("10", "100")
        for method, name in (("fml", "FML"), ("fedkd", "FedKD"))
        for figure, where in (
            ("personal_accuracy", "its own distribution"),
            ("global_accuracy", "a balanced test"),
        )
    ),
    remark="Published (FML, arXiv 2006.16765): mutual learning with a shared model lifts clients of"
    " several architectures above what they reach alone; in HtFLlib's tables (CIFAR-10, Dirichlet"
    " 0.1, eight architectures) FML has 85.88 and FedKD 86.45. Here: MNIST, 60 samples a client,"
    " two architectures, a perceptron shared. The rounds decide: 100 were chosen after both methods"
    " had been below local training after ten.",
)

FEATURES = Study(
    name="features",
    title="What clients learn from each other's features of public samples",
    base=("models=[mlp,cnn]", "rounds=30"),
    methods="local_only, fedhenn=fedhenn public.per_round=32, talking,"
    " as_sent=talking strategy.rotate=false",
    claims=tuple(
        StudyClaim(f"{text} on {where}", figure, (ours, ""), (theirs, ""))
        for text, ours, theirs in (
            ("Talking is above local training", "talking", "local_only"),
            ("FedHeNN is above local training", "fedhenn", "local_only"),
            ("Rotated messages teach more than messages as they are sent", "talking", "as_sent"),
        )
        for figure, where in (
            ("personal_accuracy", "its own distribution"),
            ("global_accuracy", "a balanced test"),
        )
    ),
    remark="Nothing published stands beside talking; its default weights were chosen on seeds 0 to"
    " 2 of this setting. Digits, ten clients, two architectures.",
)

FAMILIES = (PROTOTYPES, COMPANIONS, FEATURES)
