"""Pure functions over stacked predictions: softening, divergences, weights, means, robust means.

Axes: K clients, N public samples, C classes. ``weights[i, j]`` is how much client j teaches client
i; rows sum to 1. Nothing here knows of clients, messages or settings; nothing mutates its
arguments.
"""

from fedkd.fusion.core_set import core_set as core_set
from fedkd.fusion.descent import NamedTensors as NamedTensors
from fedkd.fusion.descent import descend as descend
from fedkd.fusion.descent import linear_weights as linear_weights
from fedkd.fusion.divergences import DIVERGENCES as DIVERGENCES
from fedkd.fusion.divergences import SCALES as SCALES
from fedkd.fusion.divergences import by_largest as by_largest
from fedkd.fusion.divergences import by_largest_of_row as by_largest_of_row
from fedkd.fusion.divergences import pairwise_cosine as pairwise_cosine
from fedkd.fusion.divergences import pairwise_js as pairwise_js
from fedkd.fusion.divergences import pairwise_kl as pairwise_kl
from fedkd.fusion.divergences import pairwise_l2 as pairwise_l2
from fedkd.fusion.divergences import pairwise_tv as pairwise_tv
from fedkd.fusion.divergences import smooth as smooth
from fedkd.fusion.estimates import argmax_histogram as argmax_histogram
from fedkd.fusion.estimates import mean_soft_label as mean_soft_label
from fedkd.fusion.mixing import RunningMean as RunningMean
from fedkd.fusion.mixing import mean_over_clients as mean_over_clients
from fedkd.fusion.mixing import mix as mix
from fedkd.fusion.mixing import reduce_entropy as reduce_entropy
from fedkd.fusion.robust import geometric_median as geometric_median
from fedkd.fusion.robust import krum as krum
from fedkd.fusion.robust import median_distance as median_distance
from fedkd.fusion.robust import median_over_clients as median_over_clients
from fedkd.fusion.robust import renormalize as renormalize
from fedkd.fusion.robust import trimmed_mean_over_clients as trimmed_mean_over_clients
from fedkd.fusion.softening import soften as soften
from fedkd.fusion.spectral import filtered_mean as filtered_mean
from fedkd.fusion.table_means import average_states as average_states
from fedkd.fusion.table_means import leave_one_out as leave_one_out
from fedkd.fusion.table_means import mean_by_count as mean_by_count
from fedkd.fusion.votes import are_tied as are_tied
from fedkd.fusion.votes import count_votes as count_votes
from fedkd.fusion.votes import hard_labels as hard_labels
from fedkd.fusion.votes import most_voted as most_voted
from fedkd.fusion.votes import reach_majority as reach_majority
from fedkd.fusion.weights import effective_neighbors as effective_neighbors
from fedkd.fusion.weights import keep_nearest as keep_nearest
from fedkd.fusion.weights import keep_within as keep_within
from fedkd.fusion.weights import row_softmax as row_softmax
from fedkd.fusion.weights import uniform_weights as uniform_weights
from fedkd.fusion.weights import without_self as without_self
