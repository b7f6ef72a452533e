"""Studies of the orderings of methods that were published, and of one paper's table.

Sizes are small: all studies take about an hour on two cores. Each uses real images and the setting
nearest to its paper's that is feasible; comments say what differs.
"""

from fedkd.cli.studies.study import Study, StudyClaim

SMALL = ("clients=10", "test.global_size=1000", "test.private_size=100")


def _claim(
    text: str, figure: str, ours: str, theirs: str, least: float = 0.0, setting: str = ""
) -> StudyClaim:
    return StudyClaim(text, figure, (ours, setting), (theirs, setting), least)


EXCHANGE = Study(
    name="exchange",
    title="1. Exchange helps, and pooling all data helps more",
    data="mnist",
    base=(
        *SMALL,
        "partition=dirichlet",
        "partition.alpha=1",
        "samples_per_client=100",
        "models=[mlp,cnn]",
        "public.size=400",
        "rounds=6",
        "train.epochs=3",
        "distill.epochs=3",
    ),
    methods="local_only, fedmd, centralized",
    claims=(
        _claim("FedMD beats local training", "global_accuracy", "fedmd", "local_only"),
        _claim("Centralized training beats FedMD", "global_accuracy", "centralized", "fedmd"),
    ),
)

SKEW = Study(
    name="skew",
    title="2. Skew and data size: where fusion pays, and at which point of a round",
    data="mnist",
    base=(
        *SMALL,
        "partition=inner_dirichlet",
        "models=[mlp]",
        "public.size=300",
        "rounds=8",
        "train.epochs=5",
        "distill.epochs=5",
    ),
    methods="local_only, mean=dsfl strategy.aggregation=mean, knfu, fedmd",
    grid=("partition.alpha=0.1,1", "samples_per_client=400,20"),
    claims=(
        _claim(
            "Strong skew, enough data, own distribution: local training is no worse than the mean",
            "personal_accuracy",
            "local_only",
            "mean",
            setting="0.1, 400",
        ),
        _claim(
            "There KnFu follows local training",
            "personal_accuracy",
            "knfu",
            "local_only",
            -1.0,
            "0.1, 400",
        ),
        *(
            _claim(
                f"Mild skew, scarce data, own distribution: {method} is far above local training",
                "personal_accuracy",
                method,
                "local_only",
                5.0,
                "1, 20",
            )
            for method in ("mean", "knfu", "fedmd")
        ),
        *(
            _claim(
                f"The same on the balanced test: {method}",
                "global_accuracy",
                method,
                "local_only",
                5.0,
                "1, 20",
            )
            for method in ("mean", "knfu", "fedmd")
        ),
    ),
)

ERA = Study(
    name="era",
    title="3. Entropy reduction pays under extreme label skew",
    data="fashion_mnist",
    base=(
        *SMALL,
        "samples_per_client=200",
        "models=[mlp]",
        "public.size=1000",
        "rounds=10",
        "train.epochs=5",
        "train.optimizer=sgd",
        "train.learning_rate=0.1",
        "distill.epochs=5",
        "distill.optimizer=sgd",
        "distill.learning_rate=0.1",
    ),
    methods="local_only, mean=dsfl strategy.aggregation=mean, era=dsfl strategy.aggregation=era",
    grid=("partition=pathological,iid",),
    claims=(
        _claim(
            "Two classes a client: ERA beats simple averaging",
            "global_accuracy",
            "era",
            "mean",
            setting="pathological",
        ),
        _claim(
            "IID: simple averaging is no worse than ERA",
            "global_accuracy",
            "mean",
            "era",
            -1.0,
            "iid",
        ),
    ),
)

POISON = Study(
    name="poison",
    title="4. Poisoned logits ruin the mean; robust fusion holds",
    data="cifar10",
    base=(
        *SMALL,
        "partition=iid",
        "samples_per_client=300",
        "models=[cnn]",
        "public.size=500",
        "rounds=3",
        "train.epochs=3",
        "distill.epochs=3",
        "distill.loss=kl",
    ),
    methods="fedmd, mildly=fedmd attacks=colluding, poisoned=fedmd attacks=colluding"
    " attacks.margin=100,"
    " cronus_clean=cronus, cronus=cronus attacks=colluding attacks.margin=100,"
    " median=fedmd attacks=colluding attacks.margin=100 robust=median,"
    " trimmed_mean=fedmd attacks=colluding attacks.margin=100 robust=trimmed_mean",
    claims=(
        _claim(
            "Two colluding attackers of ten ruin the mean of logits, which have no bound",
            "global_accuracy",
            "fedmd",
            "poisoned",
            5.0,
        ),
        _claim("They do so with logits of a usual size", "global_accuracy", "fedmd", "mildly", 5.0),
        _claim("Cronus holds", "global_accuracy", "cronus", "cronus_clean", -3.0),
        _claim("The median holds", "global_accuracy", "median", "fedmd", -3.0),
        _claim("The trimmed mean holds", "global_accuracy", "trimmed_mean", "fedmd", -3.0),
    ),
    remark="Published for orientation (FedGEMS, arXiv 2110.11027: CIFAR-10, mixed ResNets,"
    " poisoned logits): FedMD 51.1"
    " falls to 16.1, Cronus goes from 53.5 to 53.7. Here: LeNet-style CNNs, 300 samples a client,"
    " two attackers of ten"
    " who vote for the least likely class, by logits 100 above the others (mildly: by 10)."
    " Attackers are left out of"
    " the means.",
)

FEATURES = Study(
    name="features",
    title="5. Prototypes suffer where feature extractors differ widely; class tables do not",
    data="mnist",
    base=(
        *SMALL,
        "clients=9",
        "partition=dirichlet",
        "partition.alpha=1",
        "samples_per_client=60",
        "models=[mlp,cnn,resnet]",
        "public.size=0",
        "rounds=6",
        "train.epochs=3",
    ),
    methods="local_only, fedproto strategy.width=64, fd",
    claims=(
        _claim(
            "FedProto falls below local training",
            "personal_accuracy",
            "local_only",
            "fedproto strategy.width=64",
        ),
        _claim("FD does not", "personal_accuracy", "fd", "local_only", -1.0),
    ),
)

BITS = Study(
    name="bits",
    title="6. CFD is within a few points of DS-FL at ten times fewer bits",
    data="fashion_mnist",
    base=(
        *SMALL,
        "partition=dirichlet",
        "partition.alpha=1",
        "samples_per_client=200",
        "models=[mlp]",
        "public.size=1000",
        "rounds=10",
        "train.epochs=3",
        "distill.epochs=3",
    ),
    methods="dsfl=dsfl strategy.aggregation=mean, cfd=cfd strategy.server=mlp",
    figures=("personal_accuracy", "global_accuracy", "bytes_up", "entropy_bytes_up"),
    claims=(
        _claim("Within three points", "global_accuracy", "cfd", "dsfl", -3.0),
        _claim("Ten times fewer bytes up, as they travel", "bytes_up", "cfd", "dsfl", 10.0),
        _claim("Ten times fewer bytes up, entropy-coded", "entropy_bytes_up", "cfd", "dsfl", 10.0),
    ),
)

ORDERINGS = (EXCHANGE, SKEW, ERA, POISON, FEATURES, BITS)

# FedMD's transfer learning before the first round: on the labeled public set, then on its own.
CONVERGED = "public.labeled=true train.public_epochs=20 train.warm_up_epochs=20"
FEDMD = Study(
    name="fedmd",
    title="FedMD's comparison (Li & Wang 2019, arXiv 1910.03581)",
    base=(
        "clients=10",
        "test.global_size=1000",
        "test.private_size=100",
        "partition=iid",
        "samples_per_client=30",
        "models=[mlp,cnn]",
        "public.size=1000",
        "rounds=8",
        "round_order=distill_first",
        "train.epochs=5",
        "distill.epochs=1",
        "train.learning_rate=0.001",
        "distill.learning_rate=0.001",
    ),
    data="mnist",
    methods="local_only=local_only round_order=train_first, fedmd,"
    " centralized=centralized round_order=train_first,"
    f" local_only_converged=local_only round_order=train_first {CONVERGED},"
    f" fedmd_converged=fedmd {CONVERGED},"
    f" centralized_converged=centralized round_order=train_first {CONVERGED}",
    claims=tuple(
        claim
        for end, beginning in (("_converged", "pre-trained to convergence"), ("", "from scratch"))
        for claim in (
            _claim(
                "Published: 20 points above what is possible without collaboration, on average"
                f" ({beginning})",
                "global_accuracy",
                f"fedmd{end}",
                f"local_only{end}",
                20.0,
            ),
            _claim(
                "Published: a few points below training on all private sets together (here: at"
                f" most five; {beginning})",
                "global_accuracy",
                f"fedmd{end}",
                f"centralized{end}",
                -5.0,
            ),
        )
    ),
    remark="The paper: ten clients of ten architectures, public MNIST and private FEMNIST letters"
    " (i.i.d.), public CIFAR-10 and private CIFAR-100; models trained to convergence on labeled"
    " public data, then on private data, before the first round. Here: ten clients of two"
    " architectures, public and private MNIST, 30 private samples each; with *_converged* 20"
    " epochs on the labeled public set and 20 on private data come first, else public labels are"
    " not seen. Public and private classes are the same here, so that pre-training teaches the"
    " private task itself, which the paper's public sets do not. The paper's figures are those of"
    " its abstract.",
)
