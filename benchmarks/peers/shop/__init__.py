"""The shops: problems whose contexts and actions are JSON objects, and who plays them.

The room stands apart from the problems with vectors, so that stored runs of those remain those of
the same code.
"""

from benchmarks.peers.shop.play import play, scored
from benchmarks.peers.shop.policies import POLICIES, ShopPolicy
from benchmarks.peers.shop.problems import PROBLEMS, ShopProblem

__all__ = ["POLICIES", "PROBLEMS", "ShopPolicy", "ShopProblem", "play", "scored"]
