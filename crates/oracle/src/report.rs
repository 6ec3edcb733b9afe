//! What was found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;

use iced_x86::{Code, Formatter, InstructionInfoFactory, NasmFormatter};
use serde::Serialize;

use crate::case::{Body, Case, Reach};
use crate::mutate::decode;
use crate::native::{Death, Loss};
use crate::outcome::{CopyVerdict, Ending, MAX_COPIES, Verdict};
use crate::reading;

/// Counts of one encoding form.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FormTally {
    /// Operand choices that the encoder did not take.
    pub unencodable: u64,
    /// Encodings that the decoder gives to another form.
    pub decoded_otherwise: u64,
    /// Relocated, never run.
    pub relocated_only: u64,
    /// Refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Pairs of runs that were equal, by how the copy lay.
    pub equal: BTreeMap<&'static str, u64>,
    /// Pairs that differed.
    pub different: u64,
    /// Equal pairs that faulted inside a sequence: their general registers were not compared.
    pub registers_skipped: u64,
    /// Of these, calls whose copy had pushed the return address before the fault.
    pub pushed_early: u64,
    /// Originals that fell through or arrived at a branch target.
    pub completed: u64,
    /// Originals that faulted.
    pub faulted: u64,
    /// Pairs on instructions this processor does not have, whose copies were read instead.
    pub read: u64,
    /// Equal pairs in which the instruction stood between uses of the red zone.
    pub red_zone_code: u64,
    /// Originals that this processor does not know.
    pub undefined: u64,
}

impl FormTally {
    fn pairs(&self) -> u64 {
        self.equal.values().sum::<u64>() + self.different
    }
}

/// A breach of the contract.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// The form.
    pub form: String,
    /// The original, disassembled.
    pub text: String,
    /// Its bytes.
    pub bytes: String,
    /// Where it ran.
    pub at: String,
    /// How the copy lay.
    pub reach: &'static str,
    /// Where the copy ran.
    pub to: String,
    /// The copy's bytes.
    pub copy: String,
    /// What was wrong.
    pub differences: Vec<String>,
}

impl Finding {
    /// A breach seen without running.
    pub fn contract(form: Code, original: &Body, reach: Reach, what: String) -> Finding {
        Finding {
            form: format!("{form:?}"),
            text: text(original),
            bytes: hex(&original.bytes),
            at: format!("{:#x}", original.at),
            reach: reach.name(),
            to: String::new(),
            copy: String::new(),
            differences: vec![what],
        }
    }

    fn native(case: &Case, number: usize, differences: Vec<String>) -> Finding {
        let copy = &case.copies[number];
        Finding {
            to: format!("{:#x}", copy.body.at),
            copy: hex(&copy.body.bytes),
            differences,
            ..Finding::contract(case.form, &case.original, copy.reach, String::new())
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({}): `{}`", self.form, self.reach, self.text)?;
        writeln!(f, "  original {} at {}", self.bytes, self.at)?;
        if !self.copy.is_empty() {
            writeln!(f, "  copy     {} at {}", self.copy, self.to)?;
        }
        self.differences.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// Counts and findings, which add up over jobs.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// By form.
    pub forms: BTreeMap<u16, FormTally>,
    /// Forms that are never run, with the reason.
    pub decode_only: BTreeMap<u16, &'static str>,
    /// Everything that was wrong.
    pub findings: Vec<Finding>,
    /// Trials in which the original itself was lost, which says nothing about the copy.
    pub originals_lost: Vec<String>,
}

impl Tally {
    /// Makes sure a form has an entry.
    pub fn list(&mut self, code: Code) {
        self.forms.entry(code as u16).or_default();
    }

    /// A form's counts.
    pub fn form(&mut self, code: Code) -> &mut FormTally {
        self.forms.entry(code as u16).or_default()
    }

    /// Notes that a form is not run.
    pub fn decode_only(&mut self, code: Code, reason: &'static str) {
        self.decode_only.insert(code as u16, reason);
    }

    /// Adds what a batch of runs gave.
    pub fn judge(&mut self, cases: &[Case], verdicts: &[(Verdict, Option<Loss>)]) {
        let mut facts = InstructionInfoFactory::new();
        for (case, (verdict, loss)) in cases.iter().zip(verdicts) {
            let form = self.form(case.form);
            match verdict.original {
                Ending::NotRun => {}
                Ending::FellThrough | Ending::Arrived => form.completed += 1,
                Ending::Faulted => form.faulted += 1,
                Ending::Undefined => form.undefined += 1,
            }
            if let Some((death, 0)) = loss {
                let what =
                    format!("{} {}: {}", hex(&case.original.bytes), text(&case.original), describe(*death));
                self.originals_lost.push(what);
                continue;
            }
            for (number, copy) in case.copies.iter().enumerate().take(MAX_COPIES) {
                let judged = &verdict.copies[number];
                match loss {
                    Some((death, run)) if *run == number as u32 + 1 => {
                        self.form(case.form).different += 1;
                        self.findings.push(Finding::native(case, number, vec![describe(*death)]));
                    }
                    _ if !judged.run => {}
                    _ if judged.equal() && verdict.original == Ending::Undefined => {
                        let wrong = reading::fault(case, &copy.body, &mut facts);
                        let form = self.form(case.form);
                        form.read += 1;
                        match wrong {
                            None => *form.equal.entry(copy.reach.name()).or_default() += 1,
                            Some(what) => {
                                form.different += 1;
                                self.findings.push(Finding::native(case, number, vec![what]));
                            }
                        }
                    }
                    _ if judged.equal() => {
                        let form = self.form(case.form);
                        *form.equal.entry(copy.reach.name()).or_default() += 1;
                        form.registers_skipped += u64::from(judged.registers_skipped);
                        form.red_zone_code += u64::from(case.original.starts.len() > 1);
                        form.pushed_early += u64::from(judged.pushed_early);
                    }
                    _ => {
                        self.form(case.form).different += 1;
                        self.findings.push(Finding::native(case, number, lines(judged)));
                    }
                }
            }
        }
    }

    /// Adds another tally.
    pub fn merge(&mut self, other: Tally) {
        for (code, tally) in other.forms {
            let form = self.forms.entry(code).or_default();
            form.unencodable += tally.unencodable;
            form.decoded_otherwise += tally.decoded_otherwise;
            form.relocated_only += tally.relocated_only;
            form.different += tally.different;
            form.registers_skipped += tally.registers_skipped;
            form.pushed_early += tally.pushed_early;
            form.completed += tally.completed;
            form.read += tally.read;
            form.red_zone_code += tally.red_zone_code;
            form.faulted += tally.faulted;
            form.undefined += tally.undefined;
            for (reason, count) in tally.refused {
                *form.refused.entry(reason).or_default() += count;
            }
            for (reach, count) in tally.equal {
                *form.equal.entry(reach).or_default() += count;
            }
        }
        self.decode_only.extend(other.decode_only);
        self.findings.extend(other.findings);
        self.originals_lost.extend(other.originals_lost);
    }
}

fn lines(verdict: &CopyVerdict) -> Vec<String> {
    verdict.details.iter().flatten().map(ToString::to_string).collect()
}

fn describe(death: Death) -> String {
    match death {
        Death::Signal(signal) => format!("the process died of signal {signal}"),
        Death::Exit(code) => format!("the process left with code {code}"),
        Death::Hung => "ran without an end".to_owned(),
    }
}

/// Bytes as in a listing.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn text(body: &Body) -> String {
    let mut formatter = NasmFormatter::new();
    let mut lines = Vec::new();
    for &start in &body.starts {
        let mut line = String::new();
        if let Some(insn) = decode(&body.bytes[usize::from(start)..], body.at + u64::from(start)) {
            formatter.format(&insn, &mut line);
        }
        lines.push(line);
    }
    lines.join("; ")
}

/// The whole result.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Seed of the run.
    pub seed: u64,
    /// Rounds of states.
    pub states: u64,
    /// Forms the decoder lists for 64-bit mode.
    pub listed: usize,
    /// Forms of which at least one pair was run and every pair was equal.
    pub run_equal: usize,
    /// Of these: forms this processor executed (the others raised #UD in both places).
    pub executed: usize,
    /// Of these: privileged forms, which faulted in both places.
    pub privileged: usize,
    /// Of these: forms that, privileged ones aside, ran to their end at least once.
    pub completed: usize,
    /// Forms that are not privileged and yet faulted each time, by name.
    pub always_faulted: Vec<String>,
    /// Forms run that this processor does not have.
    pub not_on_this_processor: usize,
    /// Forms with a difference.
    pub different: usize,
    /// Forms of which nothing could be run because all was refused, by reason.
    pub refused: BTreeMap<String, usize>,
    /// Forms run of which some encodings were refused, by reason.
    pub partly_refused: BTreeMap<String, usize>,
    /// Forms never run, by reason.
    pub decode_only: BTreeMap<String, usize>,
    /// Forms that could not be made, by name.
    pub not_made: Vec<String>,
    /// Pairs of runs that were equal, by how the copy lay.
    pub equal_pairs: BTreeMap<&'static str, u64>,
    /// Equal pairs whose general registers were left out (a fault inside a sequence).
    pub registers_skipped: u64,
    /// Of these, calls whose copy had pushed the return address before the fault.
    pub pushed_early: u64,
    /// Equal pairs in which the instruction stood between uses of the red zone.
    pub red_zone_code: u64,
    /// Pairs judged by reading the copy, for want of the instruction in this processor.
    pub read: u64,
    /// Trials whose original could not be judged.
    pub originals_lost: Vec<String>,
    /// Every breach.
    pub findings: Vec<Finding>,
    /// Seconds it took.
    pub seconds: f64,
}

impl Report {
    /// Sums up.
    pub fn new(tally: Tally, seed: u64, states: u64, seconds: f64) -> Report {
        let mut report = Report {
            seed,
            states,
            listed: crate::forms::listed().len(),
            run_equal: 0,
            executed: 0,
            privileged: 0,
            completed: 0,
            always_faulted: Vec::new(),
            not_on_this_processor: 0,
            different: 0,
            refused: BTreeMap::new(),
            partly_refused: BTreeMap::new(),
            decode_only: BTreeMap::new(),
            not_made: Vec::new(),
            equal_pairs: BTreeMap::new(),
            registers_skipped: 0,
            pushed_early: 0,
            red_zone_code: 0,
            read: 0,
            originals_lost: tally.originals_lost,
            findings: tally.findings,
            seconds,
        };
        for (number, form) in &tally.forms {
            let code = Code::try_from(usize::from(*number)).unwrap_or(Code::INVALID);
            for (reach, count) in &form.equal {
                *report.equal_pairs.entry(reach).or_default() += count;
            }
            report.registers_skipped += form.registers_skipped;
            report.pushed_early += form.pushed_early;
            report.red_zone_code += form.red_zone_code;
            report.read += form.read;
            let decode_only = tally.decode_only.get(number);
            if let Some(reason) = decode_only {
                *report.decode_only.entry((*reason).to_owned()).or_default() += 1;
            } else if form.different > 0 {
                report.different += 1;
            } else if form.pairs() > 0 {
                report.run_equal += 1;
                let executed = form.completed + form.faulted > 0;
                report.executed += usize::from(executed);
                report.privileged += usize::from(executed && code.op_code().must_be_cpl0());
                report.completed += usize::from(form.completed > 0);
                if executed && form.completed == 0 && !code.op_code().must_be_cpl0() {
                    report.always_faulted.push(format!("{code:?}"));
                }
                report.not_on_this_processor += usize::from(!executed);
                for reason in form.refused.keys() {
                    *report.partly_refused.entry(reason.clone()).or_default() += 1;
                }
            } else if let Some(reason) = form.refused.keys().next() {
                *report.refused.entry(reason.clone()).or_default() += 1;
            } else {
                report.not_made.push(format!("{code:?}"));
            }
        }
        report
    }

    /// Whether nothing was wrong.
    pub fn clean(&self) -> bool {
        self.findings.is_empty() && self.originals_lost.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "relocation oracle: seed {}, {} states, {:.1} s", self.seed, self.states, self.seconds)?;
        writeln!(f, "forms listed                {:6}", self.listed)?;
        writeln!(f, "  run, always equal         {:6}", self.run_equal)?;
        writeln!(f, "    executed here           {:6}", self.executed)?;
        writeln!(f, "      privileged (faulted)  {:6}", self.privileged)?;
        writeln!(f, "      completed             {:6}", self.completed)?;
        let always = self.always_faulted.join(" ");
        writeln!(f, "      always faulted        {:6}  {always}", self.always_faulted.len())?;
        writeln!(f, "    #UD here, in both       {:6}", self.not_on_this_processor)?;
        writeln!(f, "  run, different            {:6}", self.different)?;
        let mut group = |title: &str, reasons: &BTreeMap<String, usize>| {
            writeln!(f, "  {:<26}{:6}", title, reasons.values().sum::<usize>())?;
            reasons.iter().try_for_each(|(reason, count)| writeln!(f, "    {count:6}  {reason}"))
        };
        group("refused altogether", &self.refused)?;
        group("decode only", &self.decode_only)?;
        group("run, but partly refused", &self.partly_refused)?;
        writeln!(f, "  not made                  {:6}  {}", self.not_made.len(), self.not_made.join(" "))?;
        write!(f, "pairs equal                 {:6} ", self.equal_pairs.values().sum::<u64>())?;
        self.equal_pairs.iter().try_for_each(|(reach, count)| write!(f, " {reach} {count}"))?;
        writeln!(
            f,
            "\n  faults inside a sequence  {:6}  (general registers not compared)",
            self.registers_skipped
        )?;
        writeln!(f, "    calls, already pushed    {:6}", self.pushed_early)?;
        writeln!(f, "originals lost              {:6}", self.originals_lost.len())?;
        self.originals_lost.iter().take(20).try_for_each(|lost| writeln!(f, "  {lost}"))?;
        writeln!(f, "findings                    {:6}", self.findings.len())
    }
}
