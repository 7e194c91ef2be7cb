"""The training pipeline: a dataset revision goes in, a release comes out.

The same object compiles for a cluster (pipelines/compile.py) and runs on one machine (pipelines/local.py).
"""

from typing import Dict, List

from kfp import dsl, kubernetes

from components.audit import audit
from components.compare import compare
from components.embed import embed
from components.export import export
from components.finetune import finetune
from components.gate import gate, refuse
from components.ingest import ingest
from components.probe import probe
from components.publish import publish
from components.resolve import resolve
from components.train import plan, train
from components.validate import require, validate
from pipelines import gpu_pool

NAME = "hilum-training"


def _on_gpu(task: dsl.PipelineTask) -> None:
    """Ask for nodes of the GPU pool, and try again where a node is taken away."""
    task.set_accelerator_type(gpu_pool.RESOURCE).set_accelerator_limit(gpu_pool.COUNT)
    for label, value in gpu_pool.NODE_LABELS.items():
        kubernetes.add_node_selector(task, label, value)
    kubernetes.add_toleration(task, key=gpu_pool.RESOURCE, operator="Exists", effect="NoSchedule")
    kubernetes.empty_dir_mount(task, volume_name="dshm", mount_path="/dev/shm", medium="Memory", size_limit="8Gi")
    task.set_retry(num_retries=2, backoff_duration="5s", backoff_factor=2.0, backoff_max_duration="300s")


@dsl.pipeline(name=NAME, description="From a dataset revision to a judged, gated and exported encoder.")
def training_pipeline(
    source: str,
    revision: str = "",
    layout: str = "phantom",
    encoders: List[str] = ["moco", "pixels"],  # noqa: B006 - KFP reads the default, nothing mutates it
    epochs: int = 20,
    image_size: int = 64,
    seed: int = 0,
    label: str = "pneumonia",
    release_encoder: str = "moco",
    gate_min_auroc: float = 0.6,
    gate_max_auroc_gap: float = 0.05,
    override_by: str = "",
    override_reason: str = "",
    recipe: Dict[str, str] = {},  # noqa: B006
    shelf: str = "",
):
    """Validate, train, judge, compare, gate and export.

    Args:
        source: A git repository with the dataset under DVC (URL or path), or a folder as its layout publishes it.
        revision: The branch, tag or commit of the data; empty for a plain folder.
        layout: How the source is laid out: nih, chexpert, mimic_cxr, covid_chestxray, kermany, oasis, bids, medmnist,
            dicom, folder or phantom.
        encoders: What is trained and compared; `pixels` is the floor and stays among them.
        epochs: Passes over the train split.
        image_size: Side of the square images in pixels.
        seed: Of splits, weights, order and resampling.
        label: What the released head answers.
        release_encoder: Which encoder is exported if the gate lets it pass.
        gate_min_auroc: What even the lower bound of the label's AUROC must reach; below 0 it is not asked.
        gate_max_auroc_gap: What even the upper bound of an AUROC gap between groups must not exceed; likewise.
        override_by: Who answers for a release that the gate does not let pass; the name stands in every answer of the
            server. Empty for nobody.
        override_reason: Why it is released all the same; likewise.
        recipe: Any other knob of a recipe, as nested JSON (see pipelines/recipes).
        shelf: A folder (a mounted volume on a cluster) to which reports and releases are copied; empty for none.
    """
    told = resolve(
        source=source,
        revision=revision,
        layout=layout,
        encoders=encoders,
        epochs=epochs,
        image_size=image_size,
        seed=seed,
        label=label,
        release_encoder=release_encoder,
        gate_min_auroc=gate_min_auroc,
        gate_max_auroc_gap=gate_max_auroc_gap,
        override_by=override_by,
        override_reason=override_reason,
        recipe=recipe,
    )
    told.set_caching_options(False)  # a branch moves, and the code's revision is not in KFP's cache key
    code, whole = told.outputs["code"], told.outputs["recipe"]

    dataset = ingest(source=source, revision=revision, digest=told.outputs["digest"], code=code, recipe=whole).outputs[
        "dataset"
    ]
    validated = validate(dataset=dataset, code=code)
    verdict = validated.outputs["verdict"]
    shown = publish(results=verdict, shelf=shelf, place="").set_caching_options(False)
    passed = require(ok=validated.outputs["Output"], verdict=verdict).after(shown)
    plans = plan(dataset=dataset, passed=passed.output, code=code, recipe=whole)

    with dsl.ParallelFor(plans.output) as job:
        # Within the loop only the job's own fields and artifacts are used: KFP 2.17's local runner silently puts the
        # loop's item in place of any other step's output parameter.
        trained = train(dataset=dataset, code=job.code, recipe=job.train)
        embedded = embed(dataset=dataset, encoder=trained.outputs["encoder"], code=job.code)
        tuned = finetune(dataset=dataset, encoder=trained.outputs["encoder"], code=job.code, recipe=job.recipe)
        for task in (trained, embedded, tuned):
            _on_gpu(task)
        vectors = embedded.outputs["vectors"]
        probed = probe(dataset=dataset, vectors=vectors, tuned=tuned.outputs["tuned"], code=job.code, recipe=job.recipe)
        audited = audit(
            dataset=dataset, vectors=vectors, scores=probed.outputs["scores"], code=job.code, recipe=job.recipe
        )

    # A dsl.Collected belongs to the one task that consumes it: KFP rewrites it while compiling.
    compared = compare(
        verdict=verdict,
        scores=dsl.Collected(probed.outputs["scores"]),
        findings=dsl.Collected(audited.outputs["findings"]),
        tuned=dsl.Collected(tuned.outputs["tuned"]),
        code=code,
    )
    publish(results=compared.outputs["reports"], shelf=shelf, place="").set_caching_options(False)

    gated = gate(
        encoders=dsl.Collected(trained.outputs["encoder"]),
        scores=dsl.Collected(probed.outputs["scores"]),
        findings=dsl.Collected(audited.outputs["findings"]),
        code=code,
        recipe=whole,
        override_by=override_by,
        override_reason=override_reason,
    )
    gate_verdict = gated.outputs["verdict"]
    # In a folder of its own: the validation of the dataset has a verdict.json too.
    publish(results=gate_verdict, shelf=shelf, place="gate").set_caching_options(False)
    with dsl.If(gated.outputs["Output"] == True):  # noqa: E712 - a KFP condition, not a Python one
        exported = export(
            dataset=dataset,
            candidate=gated.outputs["candidate"],
            verdict=gate_verdict,
            validation=verdict,
            code=code,
            recipe=whole,
        )
        publish(results=exported.outputs["releases"], shelf=shelf, place="releases").set_caching_options(False)
    with dsl.Else():
        refuse(verdict=gate_verdict)
