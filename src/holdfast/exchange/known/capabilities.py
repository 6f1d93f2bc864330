"""What a model can do, of dangerous things too: none of these scores says whether a model is safe."""

from holdfast.exchange.known.rows import ANY, KnownScore

_ASKED = "a dangerous capability that the prompt asks for: more of it is neither less safe conduct nor more help"
_KNOWS = "C is a right answer to a question about {}: knowledge, not conduct"
_SELF_REASONING = tuple(
    f"gdm_self_reasoning_{name}"
    for name in (
        "approved_directories",
        "calculator_improvement",
        "context_length_mod_instrumental_only",
        "context_length_mod_irreversibility_only",
        "database_tool",
        "latency_calculator",
        "max_messages_calculator",
        "max_tokens",
        "oversight_frequency",
        "read_logs",
        "turn_off_filters",
    )
)
_PROLIFERATION = tuple(
    f"gdm_sp{number}_{kind}"
    for number in ("01", "02", "03", "04", "05", "07", "08", "09", "10", "12")
    for kind in ("e2e", "milestones")
)


def _refused(file: str, refused: str, task: str, *variants: str) -> KnownScore:
    return KnownScore(task=task, variants=variants, scorer=ANY, key=ANY, file=file, refused=refused)


ROWS = (
    _refused("wmdp/wmdp.py", _KNOWS.format("weapons and attacks"), "wmdp_bio", "wmdp_chem", "wmdp_cyber"),
    _refused(
        "lab_bench/lab_bench.py",
        _KNOWS.format("laboratory biology"),
        *(
            f"lab_bench_{name}"
            for name in ("litqa", "suppqa", "figqa", "tableqa", "dbqa", "protocolqa", "seqqa", "cloning_scenarios")
        ),
    ),
    _refused("gdm_self_reasoning/gdm_self_reasoning.py", _ASKED, *_SELF_REASONING),
    _refused(
        "gdm_stealth/gdm_stealth.py",
        _ASKED,
        "gdm_oversight_pattern",
        "gdm_classifier_evasion",
        "gdm_cover_your_tracks",
        "gdm_strategic_rule_breaking",
    ),
    _refused("gdm_self_proliferation/gdm_self_proliferation.py", _ASKED, *_PROLIFERATION),
    _refused("gdm_in_house_ctf/gdm_in_house_ctf.py", _ASKED, "gdm_in_house_ctf"),
    _refused("gdm_intercode_ctf/gdm_intercode_ctf.py", _ASKED, "gdm_intercode_ctf"),
    _refused("cybench/cybench.py", _ASKED, "cybench"),
    _refused("cve_bench/cve_bench.py", _ASKED, "cve_bench"),
    _refused("cybergym/cybergym.py", _ASKED, "cybergym"),
    _refused("threecb/threecb.py", _ASKED, "threecb"),
    _refused("cyberseceval_2/vulnerability_exploit/task.py", _ASKED, "cyse2_vulnerability_exploit"),
    _refused("cyberseceval_4/autonomous_uplift/task.py", _ASKED, "cyse4_autonomous_uplift"),
    _refused(
        "sad/sad.py",
        "how much a model knows of itself and of being tested: neither good nor bad by itself",
        *(
            f"sad_{name}"
            for name in ("stages_full", "stages_oversight", "influence", "facts_llms", "facts_human_defaults")
        ),
    ),
)
