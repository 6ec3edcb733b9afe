//! The live screen.

use std::io::{self, Stderr, stderr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use incise::timing::{Look, Next, Snapshot};
use ratatui::Terminal;
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Row as Cells, Table, TableState};

use super::args::Sort;
use super::rows::{Row, rows, sort};
use crate::report::group;
use crate::signals::INTERRUPTED;
use crate::trace::duration;

/// Time between two looks at the keyboard.
const BEAT: Duration = Duration::from_millis(50);

/// Shows functions, and takes keys.
pub(super) struct Screen {
    terminal: Option<Terminal<CrosstermBackend<Stderr>>>,
    view: View,
    pause: Duration,
    before: Option<Snapshot>,
}

/// What is on the screen.
#[derive(Debug)]
pub(super) struct View {
    sort: Sort,
    filter: String,
    /// The filter is being typed.
    typing: bool,
    rows: Vec<Row>,
    selected: TableState,
    /// The first row that is on the screen.
    first: usize,
    seconds: f64,
}

/// What a key wants beyond the screen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wanted {
    /// Nothing.
    Nothing,
    /// To end.
    End,
    /// To switch the function at this place.
    Switch(usize, bool),
}

impl Screen {
    pub(super) fn new(sort: Sort, pause: Duration) -> Screen {
        let view = View {
            sort,
            filter: String::new(),
            typing: false,
            rows: Vec::new(),
            selected: TableState::default(),
            first: 0,
            seconds: 0.0,
        };
        Screen { terminal: None, view, pause, before: None }
    }

    /// Draws what is new, and does what was typed.
    pub(super) fn show(&mut self, look: &mut Look<'_>) -> io::Result<Next> {
        if self.terminal.is_none() {
            enable_raw_mode()?;
            execute!(stderr(), EnterAlternateScreen)?;
            self.terminal = Some(Terminal::new(CrosstermBackend::new(stderr()))?);
        }
        let since = self.before.as_ref().map_or(Duration::ZERO, |before| before.elapsed);
        let mut changed = false;
        if self.before.is_none() || look.elapsed().saturating_sub(since) >= self.pause {
            let now = look.snapshot();
            self.view.take(rows(self.before.as_ref(), &now), now.elapsed.as_secs_f64());
            self.before = Some(now);
            changed = true;
        }
        let mut switches = Vec::new();
        while event::poll(Duration::ZERO)? {
            changed = true;
            let Event::Key(key) = event::read()? else { continue };
            match self.view.key(key) {
                Wanted::Nothing => {}
                Wanted::End => INTERRUPTED.store(true, Ordering::Relaxed),
                Wanted::Switch(place, on) => switches.push((place, on)),
            }
        }
        if let Some(terminal) = self.terminal.as_mut().filter(|_| changed) {
            self.view.draw(terminal)?;
        }
        Ok(Next { pause: BEAT, switches })
    }

    /// Gives the terminal back.
    pub(super) fn leave(&mut self) {
        if self.terminal.take().is_some() {
            let _ = execute!(stderr(), LeaveAlternateScreen);
            let _ = disable_raw_mode();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.leave();
    }
}

impl View {
    fn take(&mut self, rows: Vec<Row>, seconds: f64) {
        self.rows = rows;
        self.seconds = seconds;
        sort(&mut self.rows, self.sort);
    }

    /// The rows that the filter leaves.
    fn shown(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.function.contains(&self.filter))
    }

    fn key(&mut self, key: KeyEvent) -> Wanted {
        if key.kind == KeyEventKind::Release {
            return Wanted::Nothing;
        }
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Wanted::End;
        }
        if self.typing {
            match key.code {
                KeyCode::Char(letter) => self.filter.push(letter),
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Esc => {
                    self.filter.clear();
                    self.typing = false;
                }
                KeyCode::Enter => self.typing = false,
                _ => {}
            }
            return Wanted::Nothing;
        }
        let sorted = match key.code {
            KeyCode::Char('c') => Some(Sort::Calls),
            KeyCode::Char('t') => Some(Sort::Time),
            KeyCode::Char('p') => Some(Sort::P99),
            KeyCode::Char('n') => Some(Sort::Name),
            _ => None,
        };
        if let Some(by) = sorted {
            self.sort = by;
            sort(&mut self.rows, by);
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Wanted::End,
            KeyCode::Char('/') => self.typing = true,
            KeyCode::Down => self.selected.select_next(),
            KeyCode::Up => self.selected.select_previous(),
            KeyCode::Char(' ') => {
                let selected = self.selected.selected().unwrap_or(0);
                let row = self.shown().nth(selected).map(|row| (row.place, !row.enabled));
                if let Some((place, on)) = row {
                    self.rows.iter_mut().filter(|row| row.place == place).for_each(|row| row.enabled = on);
                    return Wanted::Switch(place, on);
                }
            }
            _ => {}
        }
        Wanted::Nothing
    }

    fn draw<B: Backend>(&mut self, terminal: &mut Terminal<B>) -> Result<(), B::Error> {
        let width = terminal.size()?.width;
        let columns = columns(width);
        let cells = |row: &Row| {
            let style = if row.enabled { Style::new() } else { Style::new().add_modifier(Modifier::DIM) };
            let off = if row.enabled { "" } else { " (off)" };
            let numbers =
                columns.iter().map(|column| Cell::from(Line::from((column.text)(row)).right_aligned()));
            let name = Cell::from(format!("{}!{}{off}", row.module, row.function));
            Cells::new(numbers.chain([name])).style(style)
        };
        // Two lines are the status and the keys, one the heads of columns. Only what may be seen is made.
        let height = usize::from(terminal.size()?.height).saturating_sub(3).max(1);
        let count = self.shown().count();
        let selected = self.selected.selected().map(|selected| selected.min(count.saturating_sub(1)));
        self.first =
            selected.map_or(0, |selected| self.first.clamp((selected + 1).saturating_sub(height), selected));
        let table: Vec<Cells> = self.shown().skip(self.first).take(height).map(cells).collect();
        self.selected.select(selected);
        let mut visible = TableState::default().with_selected(selected.map(|selected| selected - self.first));
        let widths = columns.iter().map(|column| Constraint::Length(column.width));
        let widths = widths.chain([Constraint::Fill(1)]);
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let heads = columns.iter().map(|column| Cell::from(Line::from(column.head).right_aligned()));
        let heads = heads.chain([Cell::from("function")]);
        let table = Table::new(table, widths)
            .header(Cells::new(heads).style(bold))
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let filter = match (self.typing, self.filter.as_str()) {
            (true, filter) => format!("  filter: {filter}_"),
            (false, "") => String::new(),
            (false, filter) => format!("  filter: {filter}"),
        };
        let status = format!(
            "incise top  {:.0} s  {} functions  by {}{filter}",
            self.seconds,
            self.rows.len(),
            format!("{:?}", self.sort).to_lowercase()
        );
        let long = "arrows select  c calls  t time  p p99  n name  space on/off  / filter  q end";
        let keys = if usize::from(width) < long.len() {
            "c t p n sort  space on/off  / filter  q end"
        } else {
            long
        };
        let drawn = terminal.draw(|frame| {
            let parts = Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)]);
            let [head, body, foot] = parts.areas(frame.area());
            frame.render_widget(Line::from(status).style(bold), head);
            frame.render_stateful_widget(table, body, &mut visible);
            frame.render_widget(Line::from(keys), foot);
        });
        drawn.map(drop)
    }
}

/// A column of numbers.
struct Column {
    head: &'static str,
    width: u16,
    text: fn(&Row) -> String,
}

fn time(nanos: f64) -> String {
    duration(nanos.max(0.0) as u64)
}

/// The columns that a terminal of this width has room for beside names: a number is shown whole or not at all.
fn columns(width: u16) -> Vec<Column> {
    const NAMES: u16 = 20;
    let column = |head, width, text| Column { head, width, text };
    let all = [
        column("calls/s", 11, |row| group(row.calls_per_second as u64)),
        column("time/s", 9, |row| time(row.time_per_second)),
        column("p50", 9, |row| time(row.p50)),
        column("p99", 9, |row| time(row.p99)),
        column("calls", 14, |row| group(row.calls)),
    ];
    let mut left = width.saturating_sub(NAMES);
    let fits = |column: &Column| match left.checked_sub(column.width + 1) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    all.into_iter().take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use ratatui::backend::TestBackend;

    use super::*;

    fn row(place: usize, function: &str, calls: f64) -> Row {
        Row {
            place,
            module: "m".into(),
            function: function.into(),
            calls_per_second: calls,
            time_per_second: 1e6 / calls,
            p50: 100.0,
            p99: 1000.0,
            calls: calls as u64,
            time: 1,
            enabled: true,
        }
    }

    fn view() -> View {
        let Screen { view, .. } = &mut Screen::new(Sort::Calls, Duration::from_secs(1));
        let selected = TableState::default();
        let mut view = View {
            sort: view.sort,
            filter: String::new(),
            typing: false,
            rows: Vec::new(),
            selected,
            first: 0,
            seconds: 0.0,
        };
        view.take(vec![row(0, "rare", 5.0), row(1, "frequent", 500.0)], 3.0);
        view
    }

    fn screen(view: &mut View) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(100, 6)).expect("a terminal");
        view.draw(&mut terminal).expect("drawn");
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..100).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..6).map(line).collect()
    }

    fn press(view: &mut View, code: KeyCode) -> Wanted {
        view.key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn functions_are_shown_in_order() {
        let mut view = view();
        let lines = screen(&mut view);
        assert!(lines[0].contains("2 functions"), "{lines:?}");
        assert!(lines[2].ends_with("m!frequent") && lines[3].ends_with("m!rare"), "{lines:?}");
        press(&mut view, KeyCode::Char('t'));
        assert!(screen(&mut view)[2].ends_with("m!rare"));
    }

    #[test]
    fn the_selected_function_is_on_the_screen() {
        let mut view = view();
        view.take((0..10).map(|place| row(place, &format!("f{place}"), 100.0 - place as f64)).collect(), 3.0);
        // Three rows are seen.
        for _ in 0..5 {
            press(&mut view, KeyCode::Down);
        }
        let lines = screen(&mut view);
        assert!(lines[2].ends_with("m!f2") && lines[4].ends_with("m!f4"), "{lines:?}");
        press(&mut view, KeyCode::Up);
        assert!(screen(&mut view)[2].ends_with("m!f2"));
        assert_eq!(press(&mut view, KeyCode::Char(' ')), Wanted::Switch(3, false));
    }

    #[test]
    fn a_narrow_screen_has_fewer_numbers_and_whole_ones() {
        let mut view = view();
        view.rows[0].calls = 1_234_567;
        let shown = |view: &mut View, width: u16| {
            let mut terminal = Terminal::new(TestBackend::new(width, 6)).expect("a terminal");
            view.draw(&mut terminal).expect("drawn");
            let buffer = terminal.backend().buffer().clone();
            (0..width).map(|x| buffer[(x, 2)].symbol()).collect::<String>().trim().to_owned()
        };
        assert_eq!(
            shown(&mut view, 90).split_whitespace().collect::<Vec<_>>(),
            ["500", "2.00", "us", "100", "ns", "1.00", "us", "1,234,567", "m!frequent"]
        );
        assert_eq!(
            shown(&mut view, 44).split_whitespace().collect::<Vec<_>>(),
            ["500", "2.00", "us", "m!frequent"]
        );
        assert_eq!(shown(&mut view, 15), "m!frequent");
    }

    #[test]
    fn keys_filter_switch_and_end() {
        let mut view = view();
        for key in ['/', 'r', 'a', 'q'] {
            assert_eq!(press(&mut view, KeyCode::Char(key)), Wanted::Nothing);
        }
        press(&mut view, KeyCode::Backspace);
        press(&mut view, KeyCode::Enter);
        let lines = screen(&mut view);
        assert!(lines[2].ends_with("m!rare") && lines[3].is_empty(), "{lines:?}");
        assert_eq!(press(&mut view, KeyCode::Char(' ')), Wanted::Switch(0, false));
        assert!(screen(&mut view)[2].ends_with("m!rare (off)"));
        assert_eq!(press(&mut view, KeyCode::Char(' ')), Wanted::Switch(0, true));
        assert_eq!(press(&mut view, KeyCode::Char('q')), Wanted::End);
    }
}
