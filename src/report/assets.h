// The files of the page, built in (cmake/embed.cmake): our own, and Chart.js as Debian packs it.
#pragma once

#include <string_view>

namespace opo {

struct Asset {
  std::string_view text;
  std::string_view sha256;  // of the text, in hex
};

// Scripts and style stand in the page byte by byte, so that their digests are what the
// Content-Security-Policy names.
extern const Asset kPageHtml, kPageCss, kChartScript, kPageScripts[];
extern const int kNumPageScripts;

}  // namespace opo
