"""An ordinary Nevergrad script with an executor: the function and the executor are others, the rest is as it was."""

import nevergrad as ng

import llm_problem as lp

if __name__ == "__main__":  # workers are processes, which import this script
    f = lp.make("tiny-gpt2-prose-lora-xs-d32-v1").to_nevergrad()
    f.parametrization.random_state.seed(1)
    optimizer = ng.optimizers.TwoPointsDE(f.parametrization, budget=400, num_workers=20)
    with f.problem.executor(batch=20, workers=2) as executor:
        recommendation = optimizer.minimize(f, executor=executor, batch_mode=True)

    print(f"pretrained:  {f(f.problem.x0):.4f} nats per token")
    print(f"TwoPointsDE: {f(recommendation.value):.4f} nats per token")
