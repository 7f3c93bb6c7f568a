"""A reward function in verl's form: 1 if the last number of the answer is the gold answer's."""
import re


def last_number(text):
    numbers = re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
    return float(numbers[-1]) if numbers else None


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    found = last_number(solution_str)
    right = found is not None and found == last_number(ground_truth)
    return {"score": 1.0 if right else 0.0, "found_a_number": found is not None}
