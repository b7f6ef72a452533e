"""Studies of what teaches on a public set: votes and clusters, client weights, text.

Each compares an ordering with a published one where there is one. Sizes are small: minutes on two
cores. Remarks say what differs from the papers.
"""

from fedkd.cli.studies.study import Study, StudyClaim

SMALL = (
    *("clients=10", "test.global_size=1000", "test.private_size=100", "samples_per_client=100"),
    *("models=[mlp,cnn]", "public.size=400", "train.epochs=3", "distill.epochs=3", "rounds=8"),
)


def _above(text: str, ours: str, theirs: str, figure: str = "global_accuracy") -> StudyClaim:
    return StudyClaim(text, figure, (ours, ""), (theirs, ""))


VOTES = Study(
    name="votes",
    title="Votes, clusters and scores where every client has two classes",
    data="mnist",
    base=(*SMALL, "partition=pathological"),
    methods="local_only, dsfl, mean=feddf_logits, fedct, ssfl, cosmos, fedaux",
    claims=(
        _above("SSFL is above DS-FL", "ssfl", "dsfl"),
        _above("FedAUX is above the mean of logits", "fedaux", "mean"),
        _above("FedCT is above local training", "fedct", "local_only"),
        _above(
            "COSMOS is above DS-FL on the clients' own distribution",
            "cosmos",
            "dsfl",
            "personal_accuracy",
        ),
    ),
    figures=("personal_accuracy", "global_accuracy", "bytes_up"),
    remark="Published: SSFL 87.4 and DS-FL 50.5 % (N-BaIoT, 27 clients of two shards, 200 rounds;"
    " from summaries), FedAUX above FedDF (arXiv 2102.02514). Here: MNIST, ten clients, 400 public"
    " samples of the same source, eight rounds; FedAUX with random features where the paper's are"
    " pre-trained.",
)

WEIGHTED = Study(
    name="weighted",
    title="Teachers that weigh clients or samples, with few classes a client",
    data="mnist",
    base=(*SMALL, "partition=dirichlet", "partition.alpha=0.1"),
    methods="local_only, fedmd, selective_fd, rhfl, fed_dfa, fccl",
    claims=(
        _above("Fed-DFA is above FedMD", "fed_dfa", "fedmd"),
        _above("RHFL is above FedMD", "rhfl", "fedmd"),
        _above("Selective-FD is above FedMD", "selective_fd", "fedmd"),
        _above("Fed-DFA is above RHFL", "fed_dfa", "rhfl"),
        _above("FCCL is above local training", "fccl", "local_only"),
    ),
    remark="Published (Fed-DFA, CIFAR-10, five clients of five large architectures, Dirichlet 0.1,"
    " without labels in the public set): FedMD 38.13, Selective-FD 39.05, RHFL 39.24, Fed-DFA"
    " 40.70. Here: MNIST, ten clients, two small architectures, eight rounds.",
)

WRONG_LABELS = Study(
    name="wrong labels",
    title="A third of the private labels is wrong",
    data="mnist",
    base=(*SMALL, "partition=iid", "shift.wrong_labels=0.33"),
    methods="local_only, fedmd, rhfl, symmetric=rhfl train.reverse_weight=10",
    claims=(
        _above("RHFL is above FedMD", "rhfl", "fedmd"),
        _above("RHFL with symmetric cross entropy is above FedMD", "symmetric", "fedmd"),
        _above("FedMD is above local training", "fedmd", "local_only"),
    ),
    remark="Published (RHFL): its weights and its symmetric loss beat FedMD under label noise."
    " Here every client has as much of it, so that weights have little to tell apart.",
)

TEXT = Study(
    name="text",
    title="Next tokens: the best teacher of a sequence, and few tokens of a position",
    base=(
        *("data=sentences", "partition=whole_ids", "clients=4", "models=[gru,decoder]"),
        *("tokens.vocabulary=characters", "tokens.context=64", "test.global_size=70"),
        *("public.size=80", "rounds=4"),
        *("train.epochs=4", "train.batch_size=8", "train.learning_rate=0.003"),
        *("distill.epochs=4", "distill.batch_size=8", "distill.learning_rate=0.003"),
    ),
    methods="local_only, mean=dsfl strategy.aggregation=mean, fedmkt=fedmkt public.labeled=true,"
    " top_k_mean",
    claims=(
        _above("FedMKT's choice is above local training", "fedmkt", "local_only"),
        _above(
            "The mean of the likeliest tokens is above local training", "top_k_mean", "local_only"
        ),
        _above("FedMKT's choice is above the mean of soft labels", "fedmkt", "mean"),
        StudyClaim(
            "The likeliest tokens take a third of the bytes of whole rows",
            "bytes_up",
            ("top_k_mean", ""),
            ("mean", ""),
            3.0,
        ),
    ),
    figures=("personal_accuracy", "global_accuracy", "bytes_up"),
    remark="Accuracy is that of the next character. Published (FedMKT, arXiv 2406.02224): clients'"
    " small models gain over training alone, with pre-trained models of up to seven billion"
    " parameters and tasks that are answered in words; nothing of that size is here.",
)

TEACHERS = (VOTES, WEIGHTED, WRONG_LABELS, TEXT)
