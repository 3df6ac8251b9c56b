"""CPU time of sbx's soft actor-critic, in an interpreter of its own: sbx asks for a jax that nothing else here takes.

    python -m venv sbx
    sbx/bin/pip install torch==2.13.0 jax==0.5.3 jaxlib==0.5.3 'flax<0.11' tensorflow-probability==0.25.0 optax \
        tf_keras 'gymnasium[mujoco]' 'mujoco<4' cloudpickle pandas matplotlib tqdm rich
    sbx/bin/pip install --no-deps sbx-rl stable-baselines3
    python -m benchmarks.learning --sbx sbx/bin/python

Reads nothing of this package. Arguments: world, hidden units, batch, steps a reading. Each line that comes in is
answered by the seconds of CPU time of one step with its update, the mean of so many steps.
"""

from __future__ import annotations

import sys
import time


def main() -> None:
    """Answers until there are no more lines."""
    from sbx import SAC

    world, hidden, batch, stride = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    learner = SAC(
        "MlpPolicy",
        world,
        learning_rate=1e-3,
        batch_size=batch,
        buffer_size=100_000,
        gamma=0.99,
        seed=0,
        policy_kwargs={"net_arch": [hidden, hidden]},
    )
    learner.learn(2 * stride)  # steps without updates, and what is compiled
    for _ in sys.stdin:
        begun = time.process_time()
        learner.learn(stride, reset_num_timesteps=False)
        print((time.process_time() - begun) / stride, flush=True)


if __name__ == "__main__":
    main()
