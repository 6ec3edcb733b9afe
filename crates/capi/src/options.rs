//! Options: what `patch_init` and `patch_configure` choose.

use incise::callback::VectorState;
use incise::space::SpaceError;
use incise::space::own::{Builder, OwnSpace, Pages, Unwinding, Writer};
use incise::{Atomicity, TrapPolicy};

use crate::abi::Opt;
use crate::error::Error;

/// How code is changed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum WxMode {
    #[default]
    Auto,
    Poke,
    Swap,
    MemoryFile,
}

impl WxMode {
    fn of(self, builder: Builder) -> Builder {
        match self {
            WxMode::Auto => builder,
            WxMode::Poke => builder.writer(Writer::Poke),
            WxMode::Swap => builder.writer(Writer::Swap),
            WxMode::MemoryFile => builder.writer(Writer::Swap).pages(Pages::MemoryFile),
        }
    }
}

/// What cannot change while probes are installed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Setup {
    pub wx_mode: WxMode,
    /// Signal handlers see original instruction pointers.
    pub original_in_handlers: bool,
    pub unwinding: Unwinding,
}

impl Setup {
    /// A space that is set up so.
    pub fn space(self) -> Result<OwnSpace, SpaceError> {
        let builder = self.wx_mode.of(OwnSpace::builder());
        builder.original_in_handlers(self.original_in_handlers).unwinding(self.unwinding).build()
    }
}

/// Which results a commit returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Reported {
    #[default]
    Failed,
    All,
}

/// The options in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    pub setup: Setup,
    pub traps: TrapPolicy,
    pub vector: VectorState,
    pub atomicity: Atomicity,
    pub reported: Reported,
}

impl Options {
    /// Sets one option.
    ///
    /// # Errors
    /// [`Error::Option`] if there is no such option or value.
    pub fn set(&mut self, option: &Opt) -> Result<(), Error> {
        if option.reserved != 0 {
            return Err(Error::Option("the member `reserved` of an option has to be 0".to_owned()));
        }
        match option.kind {
            1 => {
                let values = [WxMode::Auto, WxMode::Poke, WxMode::Swap, WxMode::MemoryFile];
                self.setup.wx_mode = choose("PATCH_OPT_WX_MODE", "PATCH_WX_*", option, &values)?;
            }
            2 => {
                let values = [TrapPolicy::Fallback, TrapPolicy::Forbid, TrapPolicy::Force];
                self.traps = choose("PATCH_OPT_TRAP_POLICY", "PATCH_TRAP_*", option, &values)?;
            }
            3 => {
                let values = [
                    VectorState::Full,
                    VectorState::None,
                    VectorState::Sse,
                    VectorState::Avx,
                    VectorState::Avx512,
                ];
                self.vector = choose("PATCH_OPT_VECTOR_STATE", "PATCH_VECTOR_*", option, &values)?;
            }
            4 => {
                let values = [Atomicity::AllOrNothing, Atomicity::BestEffort];
                self.atomicity = choose("PATCH_OPT_ATOMICITY", "PATCH_ATOMICITY_*", option, &values)?;
            }
            5 => {
                let values = [Reported::Failed, Reported::All];
                self.reported = choose("PATCH_OPT_RESULTS", "PATCH_RESULTS_*", option, &values)?;
            }
            6 => {
                let values = [false, true];
                self.setup.original_in_handlers =
                    choose("PATCH_OPT_HANDLERS", "PATCH_HANDLERS_*", option, &values)?;
            }
            7 => {
                let values = [Unwinding::Auto, Unwinding::Everybody, Unwinding::Nobody, Unwinding::Debuggers];
                self.setup.unwinding = choose("PATCH_OPT_UNWINDING", "PATCH_UNWINDING_*", option, &values)?;
            }
            other => return Err(Error::Option(format!("there is no option {other}: see PATCH_OPT_*"))),
        }
        Ok(())
    }
}

/// The value an option names, by its number.
fn choose<T: Copy>(name: &str, values: &str, option: &Opt, choices: &[T]) -> Result<T, Error> {
    let chosen = usize::try_from(option.value).ok().and_then(|index| choices.get(index));
    chosen.copied().ok_or_else(|| {
        Error::Option(format!("{} is not a value of {name}: it takes one of {values}", option.value))
    })
}
