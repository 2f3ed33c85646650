"""torchvision's RAFT, for comparison only."""

from benchmarks.torchvision_here import torchvision

optical_flow = torchvision.models.optical_flow
raft_large = optical_flow.raft_large
raft_small = optical_flow.raft_small
