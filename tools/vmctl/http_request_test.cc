#include "tools/vmctl/http_request.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace bulkhead::vmctl {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr int kUnfinished = -1;

int ErrorOf(absl::string_view bytes) {
  const std::optional<HttpRequest> request = ParseHttpRequest(bytes);
  return request.has_value() ? request->error : kUnfinished;
}

std::string PathOf(absl::string_view bytes) {
  const std::optional<HttpRequest> request = ParseHttpRequest(bytes);
  return request.has_value() && request->error == 0 ? request->path : "none";
}

TEST(HttpRequestTest, TakesWhatPrometheusSends) {
  const std::optional<HttpRequest> request = ParseHttpRequest(
      "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9707\r\nUser-Agent: Prometheus/2.42.0\r\n"
      "Accept: application/openmetrics-text;version=1.0.0;q=0.75,*/*;q=0.1\r\n"
      "Accept-Encoding: gzip\r\nX-Prometheus-Scrape-Timeout-Seconds: 10\r\n\r\n");
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(request->error, 0);
  EXPECT_EQ(request->path, "/metrics");
  EXPECT_FALSE(request->is_head);
}

TEST(HttpRequestTest, ThePathIsThatOfTheTargetWithoutItsQuery) {
  EXPECT_EQ(PathOf("GET / HTTP/1.0\r\n\r\n"), "/");
  EXPECT_EQ(PathOf("GET /metrics?a=/b HTTP/1.0\r\n\r\n"), "/metrics");
  EXPECT_EQ(PathOf("GET http://host:80/metrics HTTP/1.1\r\nHost: host:80\r\n\r\n"), "/metrics");
  EXPECT_EQ(PathOf("GET http://host HTTP/1.0\r\n\r\n"), "/");
  EXPECT_EQ(PathOf("\r\nGET /a HTTP/1.0\n\n"), "/a");
}

TEST(HttpRequestTest, HeadIsTold) {
  EXPECT_TRUE(ParseHttpRequest("HEAD /metrics HTTP/1.0\r\n\r\n")->is_head);
}

TEST(HttpRequestTest, NoPartOfARequestIsTakenForAll) {
  const std::string request = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
  for (size_t length = 0; length < request.size(); ++length) {
    EXPECT_EQ(ErrorOf(request.substr(0, length)), kUnfinished) << length;
  }
  EXPECT_EQ(ErrorOf(request), 0);
  EXPECT_EQ(ErrorOf(absl::StrCat(request, "more")), 0);
}

TEST(HttpRequestTest, WhatIsNoRequestIsBad) {
  for (const char* bytes :
       {"GET\r\n\r\n", "GET /metrics\r\n\r\n", "GET  HTTP/1.0\r\n\r\n", " / HTTP/1.0\r\n\r\n",
        "GET / x HTTP/1.0\r\n\r\n", "GET metrics HTTP/1.0\r\n\r\n", "GET / FTP/1.0\r\n\r\n",
        "G(T / HTTP/1.0\r\n\r\n", "GET /\x01 HTTP/1.0\r\n\r\n", "GET /\xff HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.0\r\nno colon\r\n\r\n", "GET / HTTP/1.0\r\n: none\r\n\r\n",
        "GET / HTTP/1.0\r\nName : a\r\n\r\n", "GET / HTTP/1.0\r\nA: b\r\n continued\r\n\r\n",
        "GET / HTTP/1.0\r\nA: \x01\r\n\r\n", "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", "\r\n\r\n", "\x16\x03\x01\x02 a b\n"}) {
    EXPECT_EQ(ErrorOf(bytes), 400) << bytes;
  }
  EXPECT_EQ(ErrorOf(absl::string_view("GET /\0 HTTP/1.0\r\n\r\n", 19)), 400);
}

TEST(HttpRequestTest, OtherMethodsAndVersionsAreToldApart) {
  EXPECT_EQ(ErrorOf("POST /metrics HTTP/1.1\r\nHost: a\r\n\r\n"), 405);
  EXPECT_EQ(ErrorOf("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), 405);
  EXPECT_EQ(ErrorOf("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
  EXPECT_EQ(ErrorOf("GET / HTTP/1.10\r\n\r\n"), 505);
}

TEST(HttpRequestTest, AHeadThatIsTooLongIsRefusedAndNotReadOn) {
  const std::string line = absl::StrCat("GET /", std::string(kMaxHttpHeadBytes - 5, 'a'));
  EXPECT_EQ(ErrorOf(line), kUnfinished);
  EXPECT_EQ(ErrorOf(absl::StrCat(line, "a")), 431);
  std::string headers = "GET / HTTP/1.0\r\n";
  while (headers.size() <= kMaxHttpHeadBytes) headers += "A: b\r\n";
  EXPECT_EQ(ErrorOf(headers), 431);
  EXPECT_EQ(ErrorOf(absl::StrCat(headers, "\r\n")), 431);
}

TEST(HttpRequestTest, AnAnswerHasLengthAndBodyAndHeadNoBody) {
  const std::string get = HttpResponse(200, "text/plain", "hello", false);
  EXPECT_THAT(get, StartsWith("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"));
  EXPECT_THAT(get, HasSubstr("\r\nContent-Length: 5\r\n"));
  EXPECT_THAT(get, EndsWith("\r\nConnection: close\r\n\r\nhello"));
  const std::string head = HttpResponse(200, "text/plain", "hello", true);
  EXPECT_THAT(head, HasSubstr("\r\nContent-Length: 5\r\n"));
  EXPECT_THAT(head, EndsWith("\r\n\r\n"));
  EXPECT_THAT(HttpErrorResponse(405, false), HasSubstr("\r\nAllow: GET, HEAD\r\n"));
  EXPECT_THAT(HttpErrorResponse(404, false), Not(HasSubstr("Allow")));
}

}  // namespace
}  // namespace bulkhead::vmctl
