//! What is measured in the lab, and how: by the kernel's word where something runs, by the events when it was decided.

pub mod client;
pub mod loss;
pub mod migration;

use std::io::Write;

/// Each figure is taken so often.
pub const RUNS: usize = 5;

/// Figures in seconds, run by run, under a heading.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    what: String,
    goal: Option<f64>,
    runs: Vec<f64>,
}

/// The middle one, or the upper of the two in the middle.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Table {
    /// Adds a row, and shows it at once: a benchmark that is cut short has said what it knew.
    pub fn add(&mut self, what: &str, goal: Option<f64>, runs: Vec<f64>) {
        let row = Row { what: what.to_owned(), goal, runs };
        println!("{}", row.text());
        // A reader that has gone is told nothing more.
        let _ = std::io::stdout().flush();
        self.rows.push(row);
    }

    /// All of it.
    pub fn print(&self, heading: &str) {
        println!("\n{heading}, seconds\n");
        println!("| what | runs | median | goal |\n| --- | --- | --- | --- |");
        for row in &self.rows {
            println!("{}", row.line());
        }
        println!();
    }
}

impl Row {
    fn list(&self) -> String {
        self.runs.iter().map(|run| format!("{run:.2}")).collect::<Vec<_>>().join(", ")
    }

    fn text(&self) -> String {
        format!("{}: {} s, median {:.2} s", self.what, self.list(), median(&self.runs))
    }

    fn line(&self) -> String {
        let median = median(&self.runs);
        let goal = match self.goal {
            None => String::new(),
            Some(goal) if median <= goal => format!("{goal:.1}"),
            Some(goal) => format!("{goal:.1}, MISSED"),
        };
        format!("| {} | {} | {median:.2} | {goal} |", self.what, self.list())
    }
}
