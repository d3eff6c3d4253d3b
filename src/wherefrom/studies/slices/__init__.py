"""Groups of training examples and groups of queries: who carries whose error, and which examples hurt
together."""

from wherefrom.studies.slices.clusters import (
    HarmfulCluster,
    HarmfulGroups,
    label_words,
    share_words,
)
from wherefrom.studies.slices.groups import ALL_QUERIES, Groups, resolve_groups
from wherefrom.studies.slices.harmful import harmful_groups
from wherefrom.studies.slices.influence import group_influence
from wherefrom.studies.slices.ranking import GroupRanking
from wherefrom.studies.slices.table import CERTAIN, LARGE_SHARE, GroupInfluence

__all__ = [
    "ALL_QUERIES",
    "CERTAIN",
    "LARGE_SHARE",
    "GroupInfluence",
    "GroupRanking",
    "Groups",
    "HarmfulCluster",
    "HarmfulGroups",
    "group_influence",
    "harmful_groups",
    "label_words",
    "resolve_groups",
    "share_words",
]
