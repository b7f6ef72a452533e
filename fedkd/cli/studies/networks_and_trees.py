"""A study of fusion among networks and forests on a table, and of each among its own kind.

Six hospitals hold a few rows each of scikit-learn's breast cancer table. In mixed federations
clients 0, 2 and 4 have networks, the others forests; what a client gains is compared for these
clients apart, at the same splits.
"""

from fedkd.cli.studies.study import Study, StudyClaim

NETWORK, FOREST = "models=[mlp]", "models=[sklearn:RandomForestClassifier(n_estimators=50)]"
EVEN, ODD = "global_accuracy of even", "global_accuracy of odd"
OWN_EVEN, OWN_ODD = "personal_accuracy of even", "personal_accuracy of odd"


def _claim(text: str, figure: str, ours: str, theirs: str) -> StudyClaim:
    return StudyClaim(text, figure, (ours, ""), (theirs, ""))


MIXED = Study(
    name="networks_and_trees",
    title="Networks and forests in one federation (`models=[mlp,sklearn:RandomForestClassifier]`)",
    base=("scenario=networks_and_trees",),
    methods="local_only, fedmd, dsfl, knfu,"
    f" dsfl_networks=dsfl {NETWORK}, dsfl_forests=dsfl {FOREST},"
    " light=dsfl distill.soft_label_weight=0.25, heavy=dsfl distill.soft_label_weight=4",
    figures=(EVEN, ODD, OWN_EVEN, OWN_ODD),
    claims=(
        _claim("Fusion helps networks among forests", EVEN, "dsfl", "local_only"),
        _claim("Fusion helps forests among networks", ODD, "dsfl", "local_only"),
        _claim("Networks gain on their own distribution", OWN_EVEN, "dsfl", "local_only"),
        _claim("Forests gain on their own distribution", OWN_ODD, "dsfl", "local_only"),
        _claim("KnFu helps forests among networks", ODD, "knfu", "local_only"),
        _claim(
            "Networks learn more beside forests than among themselves",
            EVEN,
            "dsfl",
            "dsfl_networks",
        ),
        _claim(
            "Forests learn more beside networks than among themselves",
            ODD,
            "dsfl",
            "dsfl_forests",
        ),
    ),
    remark="Clients 0, 2 and 4 are networks and 1, 3 and 5 forests, but where all are of one kind;"
    " light and heavy are DS-FL with a quarter and four times the weight of soft labels.",
)
