"""The Hugging Face forms of a Molmo2 checkpoint: names of tensors, keys of config files.

    remote        the layout of the ``allenai/Molmo2-*`` repositories (``vit_config``)
    transformers  the layout of transformers' own ``molmo2`` classes (``vision_config``)

Tables and pure functions; nothing here imports transformers.
"""
