"""CPU time of an iteration of `imitation`'s maximum causal entropy IRL, in an interpreter of its own.

    python -m venv imitation
    imitation/bin/pip install torch==2.13.0 imitation==1.0.1 'setuptools<81'
    python -m benchmarks.inverse --imitation imitation/bin/python

`imitation` asks for an older Gymnasium than the rest. Reads nothing of this package. Argument: a file of arrays,
transitions [S, A, S], features [S, F], initial [S], visits [S] and the horizon. Each line that comes in is answered by
the seconds of CPU time of one iteration: soft values, visits, and a step of the reward's weights.
"""

from __future__ import annotations

import os
import sys
import time


def main() -> None:
    """Answers until there are no more lines."""
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read as numpy is imported
    import numpy as np
    import torch
    from imitation.algorithms.mce_irl import MCEIRL
    from imitation.rewards.reward_nets import BasicRewardNet
    from seals.base_envs import TabularModelPOMDP

    torch.set_num_threads(1)
    given = np.load(sys.argv[1])
    features = given["features"].astype(np.float32)
    world = TabularModelPOMDP(
        transition_matrix=given["transitions"],
        observation_matrix=features,
        reward_matrix=np.zeros(len(features)),
        horizon=int(given["horizon"]),
        initial_state_dist=given["initial"],
    )
    reward = BasicRewardNet(
        world.observation_space,
        world.action_space,
        hid_sizes=[],
        use_action=False,
        use_next_state=False,
        use_done=False,
    )
    learner = MCEIRL(given["visits"], world, reward, rng=np.random.default_rng(0), log_interval=None)
    seen = torch.as_tensor(features)
    learner._train_step(seen)
    for _ in sys.stdin:
        begun = time.process_time()
        learner._train_step(seen)
        print(time.process_time() - begun, flush=True)


if __name__ == "__main__":
    main()
