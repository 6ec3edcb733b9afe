//! Commands on a terminal of their own: what is on its screen, and keys.
//!
//! # Safety
//! Descriptors come from openpty(3) and are owned from then on; what runs between fork and exec is async-signal-safe.

#![allow(unsafe_code, reason = "opens a pseudoterminal")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::command::{PATIENCE, wait};
use crate::outcome::Ending;

const ROWS: usize = 24;
const COLUMNS: usize = 100;

/// A command on a terminal.
pub struct Terminal {
    child: Child,
    keys: File,
    screen: Arc<Mutex<Screen>>,
}

impl Terminal {
    /// Starts `command`, whose input, output and errors are a new terminal's, which controls it.
    ///
    /// # Panics
    /// If there is no terminal to be had.
    pub fn start(command: &mut Command) -> Terminal {
        let size = libc::winsize { ws_row: ROWS as u16, ws_col: COLUMNS as u16, ws_xpixel: 0, ws_ypixel: 0 };
        let (mut ours, mut theirs) = (-1, -1);
        // SAFETY: both descriptors are stored, and are ours then.
        let (ours, theirs) = unsafe {
            let none = std::ptr::null_mut();
            let opened = libc::openpty(&mut ours, &mut theirs, none, std::ptr::null(), &size);
            assert_eq!(opened, 0, "a terminal");
            libc::fcntl(ours, libc::F_SETFD, libc::FD_CLOEXEC);
            (File::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
        };
        let end = || Stdio::from(theirs.try_clone().expect("a descriptor"));
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm");
        // SAFETY: system calls only.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let child = command.spawn().expect("the command");
        let screen = Arc::new(Mutex::new(Screen::default()));
        let (shown, mut output) = (Arc::clone(&screen), ours.try_clone().expect("a descriptor"));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Reading fails once nobody has the other end open.
            while let Ok(len @ 1..) = output.read(&mut bytes) {
                shown.lock().unwrap_or_else(PoisonError::into_inner).take(&bytes[..len]);
            }
        });
        Terminal { child, keys: ours, screen }
    }

    /// Types.
    ///
    /// # Panics
    /// If nobody reads.
    pub fn keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("typed");
    }

    /// The lines of the screen.
    pub fn lines(&self) -> Vec<String> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner).lines()
    }

    /// Waits until the screen is as `wanted`; its lines.
    ///
    /// # Panics
    /// If it never is. `what` tells what was waited for.
    pub fn until(&self, what: &str, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        let began = Instant::now();
        loop {
            let lines = self.lines();
            if wanted(&lines) {
                return lines;
            }
            assert!(began.elapsed() < PATIENCE, "{what}:\n{}", lines.join("\n"));
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the command's end.
    pub fn end(mut self) -> Option<Ending> {
        wait(&mut self.child, PATIENCE).map(Ending::from)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What control sequences of a terminal (ECMA-48) leave on its screen, as far as text goes.
struct Screen {
    cells: Vec<Vec<char>>,
    at: (usize, usize),
    /// What came of a control sequence or a character of several bytes.
    pending: Vec<u8>,
}

impl Default for Screen {
    fn default() -> Screen {
        Screen { cells: vec![vec![' '; COLUMNS]; ROWS], at: (0, 0), pending: Vec::new() }
    }
}

impl Screen {
    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.pending.push(byte);
            match self.pending[..] {
                [0x1B] | [0x1B, b'['] => {}
                [0x1B, b'[', ref parameters @ .., last @ 0x40..=0x7E] => {
                    let text = String::from_utf8_lossy(parameters).into_owned();
                    self.control(&text, last);
                    self.pending.clear();
                }
                [0x1B, b'[', ..] => {}
                [0x1B, _] => self.pending.clear(),
                [b'\r'] => self.go((self.at.0, 0)),
                [b'\n'] => self.go((self.at.0 + 1, self.at.1)),
                _ => {
                    if let Ok(text) = std::str::from_utf8(&self.pending) {
                        if let Some(letter) = text.chars().next() {
                            self.put(letter);
                        }
                        self.pending.clear();
                    } else if self.pending.len() > 4 {
                        self.pending.clear();
                    }
                }
            }
        }
    }

    fn control(&mut self, parameters: &str, last: u8) {
        let number = |index: usize, otherwise: usize| {
            parameters.split(';').nth(index).and_then(|text| text.parse().ok()).unwrap_or(otherwise)
        };
        match last {
            b'H' | b'f' => self.go((number(0, 1).saturating_sub(1), number(1, 1).saturating_sub(1))),
            b'J' => self.cells = vec![vec![' '; COLUMNS]; ROWS],
            b'A' => self.go((self.at.0.saturating_sub(number(0, 1)), self.at.1)),
            b'B' => self.go((self.at.0 + number(0, 1), self.at.1)),
            b'C' => self.go((self.at.0, self.at.1 + number(0, 1))),
            b'D' => self.go((self.at.0, self.at.1.saturating_sub(number(0, 1)))),
            _ => {}
        }
        self.pending.clear();
    }

    fn go(&mut self, (row, column): (usize, usize)) {
        self.at = (row.min(ROWS - 1), column.min(COLUMNS));
        self.pending.clear();
    }

    fn put(&mut self, letter: char) {
        if let Some(cell) = self.cells[self.at.0].get_mut(self.at.1) {
            *cell = letter;
        }
        self.at.1 = (self.at.1 + 1).min(COLUMNS);
    }

    fn lines(&self) -> Vec<String> {
        self.cells.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned()).collect()
    }
}
