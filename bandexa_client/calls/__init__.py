"""Every call of the service, declared once: `BanditClient` and `AsyncBanditClient` have them all.

`shared` makes each method a blocking one in the first and an awaited one in the second.
"""

from bandexa_client.calls.bandits import BanditCalls
from bandexa_client.calls.challengers import ChallengerCalls
from bandexa_client.calls.decisions import DecisionCalls
from bandexa_client.calls.evidence import EvidenceCalls
from bandexa_client.calls.server import ServerCalls
from bandexa_client.calls.snapshots import SnapshotCalls


class Calls(DecisionCalls, BanditCalls, EvidenceCalls, ChallengerCalls, SnapshotCalls, ServerCalls):
    """The calls; a client adds how they are sent."""
