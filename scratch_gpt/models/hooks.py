"""Whether a module computes what its class defines: paths that replace or rearrange the calls of modules ask this."""

from torch import nn

from .compatibility import OutputRecorder


def has_no_hooks(module: nn.Module) -> bool:
    """Whether a module is in evaluation mode, has no hooks (except those with which transformers records outputs), the
    `forward` of its class, and only weights of type `nn.Parameter`."""
    forward = type(module).forward.__get__(module)
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    if any(hook.__module__ != OutputRecorder.__module__ for hook in hooks) or module.forward != forward:
        return False
    if module.training:
        return False
    return all(type(weight) is nn.Parameter for weight in module._parameters.values() if weight is not None)
