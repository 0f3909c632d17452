"""Build the trajectories of a block of finished answers."""

from collections.abc import Mapping

import numpy as np

from actors.contracts import GenerationJob
from actors.finished import Finished
from trajectories.trajectory import Trajectory


def trajectories(finished: Finished, jobs: Mapping[str, GenerationJob]) -> list[Trajectory]:
    """Return the trajectory of each answer, without a grade. Their arrays are slices of the arrays of the whole block.

    Args:
        jobs: the job of each key in `finished`.
    """
    own = [jobs[key] for key in finished.keys]
    generated = np.diff(finished.ends, prepend=0)
    prompts = np.fromiter((len(job.prompt_tokens) for job in own), np.int64, len(own))
    lengths = np.stack([prompts, generated], axis=1).ravel()  # prompt and answer of each trajectory in turn
    mask = np.tile([False, True], len(own)).repeat(lengths)
    tokens, logps = np.empty(len(mask), np.int32), np.zeros(len(mask), np.float32)
    tokens[mask], logps[mask] = finished.tokens, finished.logps
    if own:
        tokens[~mask] = np.concatenate([job.prompt_tokens for job in own])
    ends = (prompts + generated).cumsum()
    columns = (each.tolist() for each in (finished.sample_index, finished.first_version, finished.last_version))
    rows = zip(own, (ends - prompts - generated).tolist(), ends.tolist(), *columns, strict=True)
    return [
        Trajectory(
            prompt_id=job.prompt_id,
            sample_index=index,
            tokens=tokens[start:end],
            mask=mask[start:end],
            logp_sampler=logps[start:end],
            first_version=first,
            last_version=last,
            finish_reason="stop" if stopped else "length",
            seed=job.seeds[index],
            text=text,
        )
        for (job, start, end, index, first, last), stopped, text in zip(
            rows, finished.stopped.tolist(), finished.texts, strict=True
        )
    ]
