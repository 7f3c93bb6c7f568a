"""Serves a reward function of verl or TRL to opo's reward "program", one call a query.

    python3 adapter.py FILE[:FUNCTION] [--trl]

FUNCTION is compute_score (verl's form) unless --trl is given: then it is reward_func (TRL's).
"""
import asyncio, importlib.util, inspect, json, os, sys

replies = os.fdopen(os.dup(1), "w")  # what the function prints goes to stderr
os.dup2(2, 1)

def load(path, name):
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    spec = importlib.util.spec_from_file_location("served_reward", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)

def wait(result):
    return asyncio.run(result) if inspect.isawaitable(result) else result

def ask_verl(function, q):
    keys = ("data_source", "solution_str", "ground_truth", "extra_info")
    result = wait(function(**{k: q[k] for k in keys}))
    return result if isinstance(result, dict) else {"score": result}

def ask_trl(function, q):
    logged = {}
    ours = ("id", "solution_str", "prompt", "completion", "completion_ids", "finish_reason")
    scores = function(prompts=[q["prompt"]], completion_ids=[q["completion_ids"]], trainer_state=None,
                      completions=[[{"role": "assistant", "content": q["completion"]}]],
                      log_extra=lambda name, values: logged.update({name: values[0]}),
                      log_metric=lambda name, value: logged.update({name: value}),
                      **{k: [v] for k, v in q.items() if k not in ours})
    score = wait(scores)[0]
    return {**logged, "score": score}

trl = "--trl" in sys.argv
path, _, name = [a for a in sys.argv[1:] if a != "--trl"][0].partition(":")
function = load(path, name or ("reward_func" if trl else "compute_score"))
for line in sys.stdin:
    q = json.loads(line)
    try:
        result = (ask_trl if trl else ask_verl)(function, q)
        reply = json.dumps({**result, "id": q["id"]}, allow_nan=False,
                           default=lambda x: x.item() if hasattr(x, "item") else str(x))
    except Exception as error:  # never a silent zero: it is an error with a reason
        reply = json.dumps({"id": q["id"], "error": f"{type(error).__name__}: {error}"})
    print(reply, file=replies, flush=True)
