"""Run the pipeline and kill the process with SIGKILL at one event: `killed_run.py CONFIG DIR STAGE EVENT DONE`.

`EVENT` is `started`, `advanced` or `ended`; `DONE` counts the steps of an advanced stage.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from secateur import pipeline
from secateur.config import build_config, read_yaml
from secateur.runs.progress import Event, StageAdvanced, StageEnded, StageStarted
from secateur.stages import calibrate

KINDS = {"started": StageStarted, "advanced": StageAdvanced, "ended": StageEnded}


def main(config: str, root: str, stage: str, kind: str, done: int) -> None:
    def kill(event: Event) -> None:
        here = isinstance(event, KINDS[kind]) and event.stage == stage
        if here and (not isinstance(event, StageAdvanced) or event.done == done):
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    # The tests' calibration is over before its first checkpoint would be due.
    calibrate.CHECKPOINT_SECONDS = 0.0
    pipeline.run_pipeline(build_config([read_yaml(Path(config))]), Path(root), kill)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
