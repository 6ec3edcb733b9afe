//! The state of the library, and what its functions do, but for the commit.

use std::collections::{BTreeMap, HashMap};

use incise::space::own::OwnSpace;
use incise::{Counter, Images, InstanceId, Session};

use crate::abi::Opt;
use crate::data::Snippets;
use crate::error::Error;
use crate::lock;
use crate::operation::{Change, Operation};
use crate::options::{Options, Setup};
use crate::probe::Records;
use crate::results::Registry;

/// All state there is, behind one lock.
#[derive(Default)]
pub struct Library {
    pub active: Option<Active>,
    pub parts: Parts,
    pub results: Registry,
    /// One session for each setup: what one has retired stays its own, also while another is in use.
    sessions: HashMap<Setup, Session>,
}

/// What outlives `patch_fini`.
#[derive(Default)]
pub struct Parts {
    pub records: Records,
    pub images: Images,
    last_cookie: u64,
}

/// What is there between `patch_init` and `patch_fini`.
pub struct Active {
    pub options: Options,
    pub session: Session,
    /// To read the program with.
    pub space: OwnSpace,
    /// Snippets in text; made when there is one.
    pub snippets: Option<Snippets>,
    pub queue: Vec<Queued>,
    pub installed: Installed,
    /// Those that were committed; they stay readable when they are removed.
    pub counters: HashMap<u64, Counter>,
}

/// An operation and its cookie.
#[derive(Clone, Debug)]
pub struct Queued {
    pub cookie: u64,
    pub operation: Operation,
}

/// What runs now.
#[derive(Default)]
pub struct Installed {
    pub instances: BTreeMap<u64, Vec<InstanceId>>,
    pub cookies: HashMap<InstanceId, u64>,
}

impl Installed {
    pub fn add(&mut self, cookie: u64, instance: InstanceId) {
        self.instances.entry(cookie).or_default().push(instance);
        self.cookies.insert(instance, cookie);
    }

    /// Takes one instance out; returns the cookie it had.
    pub fn take(&mut self, instance: InstanceId) -> Option<u64> {
        let cookie = self.cookies.remove(&instance)?;
        if let Some(instances) = self.instances.get_mut(&cookie) {
            instances.retain(|other| *other != instance);
            if instances.is_empty() {
                self.instances.remove(&cookie);
            }
        }
        Some(cookie)
    }

    pub fn take_all(&mut self, cookie: u64) {
        for instance in self.instances.remove(&cookie).into_iter().flatten() {
            self.cookies.remove(&instance);
        }
    }
}

impl Library {
    pub fn init(&mut self, chosen: &[Opt]) -> Result<(), Error> {
        if self.active.is_some() {
            return Err(Error::AlreadyInit);
        }
        let mut options = Options::default();
        chosen.iter().try_for_each(|option| options.set(option))?;
        let session = self.session(options.setup)?;
        let space = OwnSpace::new()?;
        lock::keep_across_forks();
        self.active = Some(Active {
            options,
            session,
            space,
            snippets: None,
            queue: Vec::new(),
            installed: Installed::default(),
            counters: HashMap::new(),
        });
        Ok(())
    }

    pub fn fini(&mut self) -> Result<(), Error> {
        self.active()?.session.remove_all()?;
        self.active = None;
        Ok(())
    }

    pub fn configure(&mut self, option: &Opt) -> Result<(), Error> {
        let active = self.active()?;
        let mut options = active.options;
        options.set(option)?;
        if options.setup != active.options.setup {
            let installed = active.installed.instances.len();
            if installed > 0 {
                return Err(Error::Busy { installed });
            }
            let session = self.session(options.setup)?;
            let active = self.active()?;
            // Counters read through the session they belong to: it is kept.
            active.session = session;
        }
        self.active()?.options = options;
        Ok(())
    }

    /// # Errors
    /// [`Error::NotInit`] between `patch_fini` and `patch_init`.
    pub fn check_active(&mut self) -> Result<(), Error> {
        self.active().map(drop)
    }

    /// Queues an operation; an insertion gets a cookie, which is returned.
    pub fn queue(&mut self, operation: Operation, cookie: u64) -> Result<u64, Error> {
        let active = self.active.as_mut().ok_or(Error::NotInit)?;
        let cookie = match operation {
            Operation::Insert { .. } => {
                self.parts.last_cookie += 1;
                self.parts.last_cookie
            }
            Operation::Change(_) => {
                active.check_installed(cookie)?;
                cookie
            }
        };
        active.queue.push(Queued { cookie, operation });
        Ok(cookie)
    }

    pub fn cancel(&mut self, cookie: u64) -> Result<(), Error> {
        let active = self.active()?;
        let before = active.queue.len();
        active.queue.retain(|queued| queued.cookie != cookie);
        if active.queue.len() < before {
            return Ok(());
        }
        let why = match active.installed.instances.contains_key(&cookie) {
            true => "it was committed already: queue a PATCH_OP_REMOVE",
            false => "nothing that is queued has it",
        };
        Err(Error::Cookie { cookie, why })
    }

    pub fn read_count(&mut self, cookie: u64) -> Result<u64, Error> {
        let counter = self.active()?.counters.get(&cookie);
        let why = "no PATCH_OP_COUNT that was committed has it";
        counter.map(Counter::read).ok_or(Error::Cookie { cookie, why })
    }

    pub fn active(&mut self) -> Result<&mut Active, Error> {
        self.active.as_mut().ok_or(Error::NotInit)
    }

    fn session(&mut self, setup: Setup) -> Result<Session, Error> {
        if let Some(session) = self.sessions.get(&setup) {
            return Ok(session.clone());
        }
        let session = Session::with(setup.space()?)?;
        self.sessions.insert(setup, session.clone());
        Ok(session)
    }
}

impl Active {
    /// Whether something installed has the cookie, and will have it after what is queued.
    fn check_installed(&self, cookie: u64) -> Result<(), Error> {
        let mut queued = self.queue.iter().filter(|queued| queued.cookie == cookie).map(|q| &q.operation);
        let why = match queued
            .find(|operation| !matches!(operation, Operation::Change(change) if *change != Change::Remove))
        {
            Some(Operation::Insert { .. }) => "it is queued, and not installed yet: use patch_cancel()",
            Some(Operation::Change(_)) => "its removal is queued already",
            None if !self.installed.instances.contains_key(&cookie) => "nothing that is installed has it",
            None => return Ok(()),
        };
        Err(Error::Cookie { cookie, why })
    }
}
