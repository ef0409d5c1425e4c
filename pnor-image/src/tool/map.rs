//! A picture of the flash: one bar to scale, and the name, place and size of every partition beside it.
//!
//! The surprise: small partitions would be thinner than a line, so the list beside the bar has its own spacing, and a line
//! leads from each name to its place.

use alloc::format;
use alloc::string::String;
use core::fmt::Write as _;

use super::report::{PartitionReport, Report};

const ROW: u64 = 22;
const TOP: u64 = 40;
const BAR_LEFT: u64 = 20;
const BAR_WIDTH: u64 = 120;
const LIST_LEFT: u64 = 220;
const WIDTH: u64 = 760;

/// Draws the map as SVG.
pub fn svg(report: &Report) -> String {
    let rows = report.partitions.len() as u64;
    let height = (rows * ROW).max(400);
    let flash = report.flash_size.max(1);
    let scale = |bytes: u64| bytes * height / flash;
    let mut order: alloc::vec::Vec<&PartitionReport> = report.partitions.iter().collect();
    order.sort_by_key(|partition| partition.offset);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <text x=\"{BAR_LEFT}\" y=\"24\" font-size=\"16\">{} MiB of flash</text>\n\
         <rect x=\"{BAR_LEFT}\" y=\"{TOP}\" width=\"{BAR_WIDTH}\" height=\"{height}\" fill=\"#eeeeee\" stroke=\"#444444\"/>\n",
        TOP + height + 20,
        report.flash_size >> 20,
    );
    for (index, partition) in (0..).zip(order) {
        let top = TOP + scale(partition.offset);
        let tall = scale(partition.size).max(1);
        let line = TOP + index * ROW + ROW / 2;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "<rect x=\"{BAR_LEFT}\" y=\"{top}\" width=\"{BAR_WIDTH}\" height=\"{tall}\" fill=\"{}\" stroke=\"#444444\" \
             stroke-width=\"0.5\"/>\n\
             <path d=\"M{} {} L{} {line}\" stroke=\"#999999\" fill=\"none\"/>\n\
             <text x=\"{LIST_LEFT}\" y=\"{}\">{}</text>\n\
             <text x=\"{}\" y=\"{}\" font-family=\"monospace\" font-size=\"12\">{:#010x} {:>8} KiB  {}</text>",
            colour(partition),
            BAR_LEFT + BAR_WIDTH,
            top + tall / 2,
            LIST_LEFT - 6,
            line + 4,
            escaped(&partition.name),
            LIST_LEFT + 140,
            line + 4,
            partition.offset,
            partition.size >> 10,
            escaped(&partition.flags),
        );
    }
    text.push_str("</svg>\n");
    text
}

/// Red what is wrong, white what is erased, blue what is read-only, green what may change.
fn colour(partition: &PartitionReport) -> &'static str {
    if !partition.problems.is_empty() {
        "#e07a7a"
    } else if partition.content == "erased" {
        "#ffffff"
    } else if partition.flags.contains('R') {
        "#a8c4e6"
    } else {
        "#b5dcb0"
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
