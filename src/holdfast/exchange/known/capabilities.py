"""What a model can do, of dangerous things too: none of these scores says whether a model is safe."""

from holdfast.exchange.known.rows import ANY, Scorer

_ASKED = "a dangerous capability that the prompt asks for: more of it is neither less safe conduct nor more help"
_KNOWS = "C is a right answer to a question about {}: knowledge, not conduct"
_OF_ITSELF = "how much a model knows of itself and of being tested: neither good nor bad by itself"


def _named(start: str, *ends: str) -> tuple[str, ...]:
    return tuple(start + end for end in ends)


_SELF_REASONING = _named(
    "gdm_self_reasoning_",
    *("approved_directories", "calculator_improvement", "context_length_mod_instrumental_only"),
    *("context_length_mod_irreversibility_only", "database_tool", "latency_calculator", "max_messages_calculator"),
    *("max_tokens", "oversight_frequency", "read_logs", "turn_off_filters"),
)
_STEALTH = _named("gdm_", "oversight_pattern", "classifier_evasion", "cover_your_tracks", "strategic_rule_breaking")
_STEPS = ("01", "02", "03", "04", "05", "07", "08", "09", "10", "12")
_PROLIFERATION = _named("gdm_sp", *(f"{step}_{kind}" for step in _STEPS for kind in ("e2e", "milestones")))
_BIOLOGY = _named(
    "lab_bench_", *("litqa", "suppqa", "figqa", "tableqa", "dbqa", "protocolqa", "seqqa", "cloning_scenarios")
)
_AWARENESS = _named("sad_", "stages_full", "stages_oversight", "influence", "facts_llms", "facts_human_defaults")

ROWS = tuple(
    Scorer(tasks[0], ANY, file, *tasks[1:]).refuses(ANY, why)
    for file, why, tasks in (
        ("wmdp/wmdp.py", _KNOWS.format("weapons and attacks"), ("wmdp_bio", "wmdp_chem", "wmdp_cyber")),
        ("lab_bench/lab_bench.py", _KNOWS.format("laboratory biology"), _BIOLOGY),
        ("gdm_self_reasoning/gdm_self_reasoning.py", _ASKED, _SELF_REASONING),
        ("gdm_stealth/gdm_stealth.py", _ASKED, _STEALTH),
        ("gdm_self_proliferation/gdm_self_proliferation.py", _ASKED, _PROLIFERATION),
        ("gdm_in_house_ctf/gdm_in_house_ctf.py", _ASKED, ("gdm_in_house_ctf",)),
        ("gdm_intercode_ctf/gdm_intercode_ctf.py", _ASKED, ("gdm_intercode_ctf",)),
        ("cybench/cybench.py", _ASKED, ("cybench",)),
        ("cve_bench/cve_bench.py", _ASKED, ("cve_bench",)),
        ("cybergym/cybergym.py", _ASKED, ("cybergym",)),
        ("threecb/threecb.py", _ASKED, ("threecb",)),
        ("cyberseceval_2/vulnerability_exploit/task.py", _ASKED, ("cyse2_vulnerability_exploit",)),
        ("cyberseceval_4/autonomous_uplift/task.py", _ASKED, ("cyse4_autonomous_uplift",)),
        ("sad/sad.py", _OF_ITSELF, _AWARENESS),
    )
)
