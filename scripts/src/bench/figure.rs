//! One figure with what it is compared to, and a list of them as a table, as JSON and as a chart.

use std::fmt::Write as _;

use crate::table::string;

/// What stands beside a figure.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Peer {
    /// Who was measured.
    pub(super) who: &'static str,
    /// What was measured, in the unit of the figure.
    pub(super) value: f64,
}

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    /// What is measured; unique.
    pub(super) name: String,
    /// Its unit.
    pub(super) unit: &'static str,
    /// What was measured with Nidus.
    pub(super) ours: f64,
    /// The same with somebody else.
    pub(super) peer: Option<Peer>,
    /// What the ratio to the peer, or the figure where there is none, shall be at most.
    pub(super) at_most: Option<f64>,
}

impl Figure {
    /// A figure without a peer.
    pub(super) fn new(name: impl Into<String>, unit: &'static str, ours: f64) -> Self {
        Self {
            name: name.into(),
            unit,
            ours,
            peer: None,
            at_most: None,
        }
    }

    /// Puts a peer beside it.
    pub(super) fn beside(self, who: &'static str, value: f64) -> Self {
        Self {
            peer: Some(Peer { who, value }),
            ..self
        }
    }

    /// Sets out what is to be reached.
    pub(super) fn at_most(self, at_most: f64) -> Self {
        Self {
            at_most: Some(at_most),
            ..self
        }
    }

    /// Nidus over the peer.
    pub(super) fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().map(|peer| self.ours / peer.value)
    }

    /// Whether it is above what was set out.
    pub(super) fn misses(&self) -> bool {
        let judged = self.ratio().unwrap_or(self.ours);
        self.at_most.is_some_and(|at_most| judged > at_most)
    }

    /// Digits behind the point.
    fn digits(&self) -> usize {
        match self.unit {
            "instructions" | "bytes" => 0,
            _ => 3,
        }
    }

    /// Its row of the table.
    pub(super) fn row(&self) -> String {
        let digits = self.digits();
        let name = format!("{} ({})", self.name, self.unit);
        let mut text = format!("{name:50} {:>12.digits$}", self.ours);
        match (&self.peer, self.ratio()) {
            (Some(peer), Some(ratio)) => {
                let _ = write!(
                    text,
                    " {:>12.digits$} {ratio:>7.3}  {:8}",
                    peer.value, peer.who
                );
            }
            _ => {
                let _ = write!(text, " {:>12} {:>7}  {:8}", "", "", "");
            }
        }
        if let Some(at_most) = self.at_most {
            let mark = if self.misses() { " !" } else { "" };
            let _ = write!(text, " <= {at_most}{mark}");
        }
        text.trim_end().to_owned()
    }
}

/// The head of the table.
pub(super) fn head() -> String {
    format!(
        "{:50} {:>12} {:>12} {:>7}  {:8} {}",
        "", "Nidus", "peer", "ratio", "peer is", "set out"
    )
}

/// The table as Markdown, for the README.
pub(super) fn markdown(figures: &[Figure]) -> String {
    let mut text = String::from("| | Nidus | peer | ratio | set out |\n|---|--:|--:|--:|---|\n");
    for figure in figures {
        let digits = figure.digits();
        let peer = figure.peer.as_ref().map_or_else(String::new, |peer| {
            format!("{:.digits$} ({})", peer.value, peer.who)
        });
        let ratio = figure
            .ratio()
            .map_or_else(String::new, |ratio| format!("{ratio:.3}"));
        let mark = if figure.misses() { ", missed" } else { "" };
        let at_most = figure
            .at_most
            .map_or_else(String::new, |at_most| format!("<= {at_most}{mark}"));
        let _ = writeln!(
            text,
            "| {}, {} | {:.digits$} | {peer} | {ratio} | {at_most} |",
            figure.name, figure.unit, figure.ours
        );
    }
    text
}

/// All figures as a JSON list.
pub(super) fn json(figures: &[Figure]) -> String {
    let each = figures.iter().map(|figure| {
        let null = || "null".to_owned();
        let (who, peer) = figure.peer.as_ref().map_or_else(
            || (null(), null()),
            |peer| (string(peer.who), format!("{:.6}", peer.value)),
        );
        let at_most = figure.at_most.map_or_else(null, |at_most| at_most.to_string());
        let (name, unit) = (string(&figure.name), string(figure.unit));
        format!(
            "  {{\"name\": {name}, \"unit\": {unit}, \"nidus\": {:.6}, \"peer\": {peer}, \"peer_is\": {who}, \
             \"at_most\": {at_most}}}",
            figure.ours
        )
    });
    format!("[\n{}\n]\n", each.collect::<Vec<_>>().join(",\n"))
}

/// Pixels of a row, of the names, and of the bar that stands for a ratio of one.
const ROW: usize = 22;
const NAMES: usize = 360;
const ONE: f64 = 300.0;
/// The longest bar: what is more is cut off and has its number.
const MOST: f64 = 1.5;

/// A chart of the ratios, Nidus over its peer: a bar up to the line is as good.
pub(super) fn svg(figures: &[Figure]) -> String {
    let ratios: Vec<_> = figures
        .iter()
        .filter_map(|f| Some((f, f.ratio()?)))
        .collect();
    let height = ROW * (ratios.len() + 2);
    let line = NAMES as f64 + ONE;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{line}\" y=\"14\" text-anchor=\"middle\">as the peer</text>\n",
        line + ONE,
    );
    for (place, (figure, ratio)) in ratios.iter().enumerate() {
        let top = ROW * (place + 1);
        let colour = match (figure.misses(), *ratio <= 1.0) {
            (true, _) => "#b03030",
            (false, true) => "#2f7f4f",
            (false, false) => "#c08a20",
        };
        let who = figure.peer.as_ref().map_or("", |peer| peer.who);
        let width = ratio.min(MOST) * ONE;
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{} / {}</text><rect x=\"{NAMES}\" y=\"{}\" width=\"{width:.1}\" \
             height=\"{}\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{}\">{ratio:.3}</text>",
            NAMES - 8,
            top + 15,
            escaped(&figure.name),
            escaped(who),
            top + 4,
            ROW - 8,
            NAMES as f64 + width + 4.0,
            top + 15,
        );
    }
    let _ = writeln!(
        text,
        "<line x1=\"{line}\" x2=\"{line}\" y1=\"18\" y2=\"{height}\" stroke=\"black\" stroke-dasharray=\"3 3\"/>\n</svg>"
    );
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure() -> Figure {
        Figure::new("userland uptime", "s", 1.2).beside("skiboot", 1.0)
    }

    #[test]
    fn a_row_has_the_ratio_and_what_is_missed() {
        let row = figure().row();
        assert!(
            row.ends_with("1.200        1.000   1.200  skiboot"),
            "{row}"
        );
        let missed = figure().at_most(1.1);
        assert!(missed.misses() && missed.row().ends_with("<= 1.1 !"));
        assert!(!figure().at_most(1.2).misses());
        // Without a peer the figure itself is judged.
        let alone = Figure::new("bytes of an L2", "bytes", 20_000.0).at_most(16_384.0);
        assert!(alone.misses(), "{}", alone.row());
    }

    #[test]
    fn the_list_is_json_and_the_chart_has_a_bar_for_each_ratio() {
        let list = [figure(), Figure::new("a < b", "bytes", 1.0)];
        let json = json(&list);
        assert!(json.contains("\"peer\": 1.000000, \"peer_is\": \"skiboot\", \"at_most\": null}"));
        assert!(json.contains("\"nidus\": 1.000000, \"peer\": null"));
        let table = markdown(&list);
        assert!(table.ends_with("| a < b, bytes | 1 |  |  |  |\n"));
        assert!(table.contains("| userland uptime, s | 1.200 | 1.000 (skiboot) | 1.200 |  |"));
        let svg = svg(&list);
        assert_eq!(svg.matches("height=\"14\"").count(), 1);
        assert!(svg.contains("userland uptime / skiboot") && svg.contains("width=\"360.0\""));
        assert!(svg.trim_end().ends_with("</svg>"));
    }
}
