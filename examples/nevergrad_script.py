"""An ordinary Nevergrad script: only the function is another one."""

import nevergrad as ng

import llm_problem as lp

f = lp.make("tiny-gpt2-prose-lora-xs-d32-v1").to_nevergrad()
recommendation = ng.optimizers.NGOpt(f.parametrization, budget=100).minimize(f)

print(f"pretrained: {f(f.problem.x0):.4f} nats per token")
print(f"NGOpt:      {f(recommendation.value):.4f} nats per token")
