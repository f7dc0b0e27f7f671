"""Checkpoints to and from the Hugging Face format, and models in that form.

    export           a native checkpoint as a folder that stock transformers loads
    pretrained       a start checkpoint from a plain language model and a SigLIP2 ViT
    lite             the pruning model as a transformers model; known to the Auto classes as soon
                     as this package is imported

Reading a folder of either layout is part of ``olmo.models.loading``; the tables of names and keys
are in ``olmo.models.hf_layout``.
"""

from olmo.hf_model import lite as lite
