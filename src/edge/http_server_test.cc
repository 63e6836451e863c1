#include <gtest/gtest.h>

#include <deque>

#include "edge/http_test_support.h"
#include "edge/listen_tcp.h"
#include "edge/network_namespace.h"
#include "edge/process.h"

namespace virga {
namespace {

using HttpServerTest = HttpTest;

void answer(HttpRequest request, const std::shared_ptr<HttpReply>& reply) {
  std::string text = request.method + " " + request.path;
  for (const auto& [name, value] : request.query) text += " " + name + "=" + value;
  reply->send({200, {{"x-got", request.headers["x-sent"]}}, text + " " + request.body});
}

std::string status_of(const std::string& response) { return response.substr(0, 12); }

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST_F(HttpServerTest, F_B11_a_request_is_answered) {
  start({}, answer);
  HttpCall request{.method = "POST", .url = url("http", "/v1/a%20b?c=d")};
  request.headers = {{"X-Sent", "e"}};
  request.body = std::string(300'000, 'f');
  const auto response = call(std::move(request));
  ASSERT_TRUE(response.ok()) << response.error().text();
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(response->headers.at("x-got"), "e");
  EXPECT_EQ(response->body, "POST /v1/a b c=d " + std::string(300'000, 'f'));
}

TEST_F(HttpServerTest, R_B9_who_takes_a_connection_serves_and_who_ends_it_at_once_does_not) {
  start({}, answer);
  const auto served = [&](const std::string& where) {
    Result<Duration> got = make_error(Errc::internal, "no answer");
    tcp_call(loop_, HttpCall{.url = where}, milliseconds(100), [&](const Result<Duration>& result) {
      got = result;
      loop_.stop();
    });
    run();
    return got;
  };
  EXPECT_TRUE(served(url("http", "")).ok());
  auto listener = listen_tcp("127.0.0.1", 0, 8);
  ASSERT_TRUE(listener.ok());
  const std::string there = "http://127.0.0.1:" + std::to_string(port_of(*listener));
  std::thread closes([&] { ::close(::accept(listener->get(), nullptr, nullptr)); });
  const auto ended = served(there);
  closes.join();
  ASSERT_FALSE(ended.ok());
  EXPECT_NE(ended.error().text().find("at once"), std::string::npos) << ended.error().text();
  listener = make_error(Errc::not_found, "closed");
  EXPECT_EQ(served(there).error().code, Errc::unavailable);
}

TEST_F(HttpServerTest, R_B9_a_call_comes_from_the_network_namespace_that_it_names) {
  start({}, answer);
  auto made = make_network_namespace();
  ASSERT_TRUE(made.ok()) << made.error().text();
  const auto elsewhere = std::make_shared<const int>(made->get());
  HttpCall request{.url = url("http", "/")};
  request.network_namespace = elsewhere;  // its loopback is down, and nobody listens there
  EXPECT_EQ(call(request).error().code, Errc::unavailable);
  request.network_namespace = nullptr;
  EXPECT_TRUE(call(request).ok());
}

TEST_F(HttpServerTest, F_B10_a_socket_that_listens_already_is_taken_over) {
  const RawSocket listener;
  ASSERT_EQ(::listen(listener.number(), 8), 0);  // the kernel chooses the port
  sockaddr_in address{};
  socklen_t size = sizeof address;
  ::getsockname(listener.number(), reinterpret_cast<sockaddr*>(&address), &size);
  start({.listening_descriptor = ::dup(listener.number())}, answer);
  EXPECT_EQ(server_->port(), ntohs(address.sin_port));
  const auto response = call({.url = url("http", "/here")});
  ASSERT_TRUE(response.ok()) << response.error().text();
  EXPECT_EQ(response->body, "GET /here ");
}

TEST_F(HttpServerTest, F_B11_large_answers_and_head) {
  const std::string large(5'000'000, 'x');
  start({}, [&](HttpRequest, const std::shared_ptr<HttpReply>& reply) {
    reply->send({200, {}, large});
  });
  const auto response = call({.url = url("http", "/")});
  ASSERT_TRUE(response.ok()) << response.error().text();
  EXPECT_EQ(response->body, large);
  const auto head = call({.method = "HEAD", .url = url("http", "/")});
  ASSERT_TRUE(head.ok()) << head.error().text();
  EXPECT_EQ(head->headers.at("content-length"), "5000000");
  EXPECT_EQ(head->body, "");
  const auto refused = call({.url = url("http", "/"), .body_bytes_max = 1000});
  EXPECT_EQ(refused.error().code, Errc::internal);
}

TEST_F(HttpServerTest, F_B11_requests_on_one_connection_are_answered_in_order) {
  start({}, answer);
  const std::string got =
      raw("GET /1 HTTP/1.1\r\nHost: h\r\n\r\nPOST /2 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: "
          "chunked\r\n\r\n"
          "3\r\nabc\r\n0\r\n\r\nGET /3 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(count_of(got, "HTTP/1.1 200"), 3u);
  EXPECT_LT(got.find("GET /1"), got.find("POST /2 abc"));
  EXPECT_LT(got.find("POST /2 abc"), got.find("GET /3"));
}

TEST_F(HttpServerTest, F_B11_a_short_answer_is_not_sent_in_two_pieces) {
  start({}, answer);
  for (int time = 0; time < 50; ++time) {
    std::string got;
    beside([&] {
      const RawSocket socket(server_->port());
      socket.send("GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");
      got = socket.receive("\r\n\r\n");
    });
    ASSERT_NE(got.find("GET /1 "), std::string::npos) << got;
  }
}

TEST_F(HttpServerTest, F_B11_continue_is_said_to_who_waits_for_it) {
  start({}, answer);
  std::string got;
  beside([&] {
    const RawSocket socket(server_->port());
    socket.send(
        "POST /1 HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n"
        "Connection: close\r\n\r\n");
    EXPECT_EQ(status_of(socket.receive("\r\n\r\n")), "HTTP/1.1 100");
    socket.send("abc");
    got = socket.receive();
  });
  EXPECT_NE(got.find("POST /1 abc"), std::string::npos) << got;
}

TEST_F(HttpServerTest, F_F25_tricks_in_the_path_never_reach_the_handler) {
  int handled = 0;
  start({}, [&](HttpRequest, const std::shared_ptr<HttpReply>&) { ++handled; });
  for (const std::string target :
       {"/../etc/passwd", "/%2e%2e/x", "/a%00", "/a%2fb", "/%zz", "//x", "*"}) {
    const std::string got = raw("GET " + target + " HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT_EQ(status_of(got), "HTTP/1.1 400") << target;
    EXPECT_NE(got.find(R"("code":"invalid")"), std::string::npos) << got;
  }
  EXPECT_EQ(handled, 0);
}

TEST_F(HttpServerTest, F_F20_malformed_requests_are_answered_400) {
  int handled = 0;
  start({}, [&](HttpRequest, const std::shared_ptr<HttpReply>&) { ++handled; });
  const std::string host = "Host: h\r\n";
  for (const std::string& text :
       {std::string("garbage\r\n\r\n"), std::string("GET / HTTP/9.9\r\n\r\n"),
        std::string("\x16\x03\x01\x02\x00\x01\r\n"), std::string("GET / HTTP/1.1\r\n\r\n"),
        "GET / HTTP/1.1\r\n" + host + host + "\r\n",
        "GET / HTTP/1.1\r\n" + host + "Bad Name: x\r\n\r\n",
        "POST / HTTP/1.1\r\n" + host + "Content-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\n" + host + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\n" + host +
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
    EXPECT_EQ(status_of(raw(text)), "HTTP/1.1 400") << text;
  }
  EXPECT_EQ(handled, 0);
}

TEST_F(HttpServerTest, F_F20_oversize_bodies_and_headers_are_refused) {
  int handled = 0;
  HttpServerOptions options;
  options.body_bytes_max = 1000;
  start(options, [&](HttpRequest, const std::shared_ptr<HttpReply>&) { ++handled; });
  const std::string start_line = "POST / HTTP/1.1\r\nHost: h\r\n";
  const std::string large(300'000, 'x');
  EXPECT_EQ(status_of(raw(start_line + "Content-Length: 1001\r\n\r\n")), "HTTP/1.1 413");
  EXPECT_EQ(status_of(raw(start_line + "Content-Length: 300000\r\n\r\n" + large)), "HTTP/1.1 413");
  EXPECT_EQ(status_of(raw(start_line + "Content-Length: 99999999999999\r\n\r\n")), "HTTP/1.1 413");
  EXPECT_EQ(status_of(raw(start_line + "Transfer-Encoding: chunked\r\n\r\n493e0\r\n" + large)),
            "HTTP/1.1 413");
  EXPECT_EQ(status_of(raw(start_line + "X: " + large + "\r\n\r\n")), "HTTP/1.1 431");
  EXPECT_EQ(handled, 0);
  const auto client = call({.method = "POST", .url = url("http", "/"), .body = large});
  ASSERT_TRUE(client.ok()) << client.error().text();
  EXPECT_EQ(client->status, 413);
}

TEST_F(HttpServerTest, F_B11_who_is_slow_to_ask_is_told_408_and_who_is_silent_is_closed) {
  HttpServerOptions options;
  options.header_deadline = milliseconds(60);
  start(options, answer);
  std::string dripped, silent, body;
  beside([&] {
    const RawSocket loris(server_->port()), mute(server_->port()), half(server_->port());
    half.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc");
    loris.send("GET / HT");
    dripped = loris.receive();
    silent = mute.receive();
    body = half.receive();
  });
  EXPECT_EQ(status_of(dripped), "HTTP/1.1 408");
  EXPECT_EQ(status_of(body), "HTTP/1.1 408");
  EXPECT_EQ(silent, "");
}

TEST_F(HttpServerTest, F_B11_a_kept_connection_may_be_silent_until_the_idle_deadline) {
  HttpServerOptions options;
  options.idle_deadline = milliseconds(60);
  start(options, answer);
  const std::string got =
      raw("GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");  // ends only because the server closes
  EXPECT_EQ(status_of(got), "HTTP/1.1 200");
  EXPECT_EQ(count_of(got, "HTTP/1.1"), 1u);
}

TEST_F(HttpServerTest, F_B11_a_handler_that_does_not_answer_is_answered_for) {
  HttpServerOptions options;
  options.request_deadline = milliseconds(60);
  std::shared_ptr<HttpReply> kept;
  start(options, [&](HttpRequest request, const std::shared_ptr<HttpReply>& reply) {
    if (request.path == "/keep") kept = reply;
  });
  const auto late = call({.url = url("http", "/keep")});
  ASSERT_TRUE(late.ok()) << late.error().text();
  EXPECT_EQ(late->status, 504);
  kept->send({200, {}, "too late"});
  kept->send({200, {}, "twice"});
  const auto dropped = call({.url = url("http", "/drop")});
  ASSERT_TRUE(dropped.ok()) << dropped.error().text();
  EXPECT_EQ(dropped->status, 500);
}

TEST_F(HttpServerTest, F_B11_answers_may_come_from_any_thread_and_their_headers_are_checked) {
  std::thread worker;
  start({}, [&](HttpRequest, const std::shared_ptr<HttpReply>& reply) {
    worker = std::thread([reply] {
      reply->send({200,
                   {{"x-good", "1"}, {"x-bad", "a\r\nx-injected: 1"}, {"content-length", "99"}},
                   "abc"});
    });
  });
  const auto response = call({.url = url("http", "/")});
  worker.join();
  ASSERT_TRUE(response.ok()) << response.error().text();
  EXPECT_EQ(response->body, "abc");
  EXPECT_EQ(response->headers.at("x-good"), "1");
  EXPECT_EQ(response->headers.count("x-bad") + response->headers.count("x-injected"), 0u);
}

TEST_F(HttpServerTest, R_F13_a_server_takes_another_identity_for_those_who_come_from_now_on) {
  HttpServerOptions options;
  options.tls = identity("server", -seconds(60));
  start(options, [](const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
    reply->send({.body = "here"});
  });
  HttpCall request;
  request.url = url("https", "/");
  request.tls.trusted = options.tls.trusted;
  request.server_name = "virga-server";
  EXPECT_EQ(call(request).error().code, Errc::unauthenticated) << "it has expired";
  TlsIdentity broken = options.tls;
  broken.private_key = "none";
  EXPECT_EQ(server_->use(broken).error().code, Errc::invalid);
  ASSERT_TRUE(server_->use(identity("server")).ok());
  const auto answer = call(request);
  ASSERT_TRUE(answer.ok()) << answer.error().text();
  EXPECT_EQ(answer->body, "here");
  start({}, nullptr);
  EXPECT_EQ(server_->use(identity("server")).error().code, Errc::invalid) << "it has no TLS";
}

TEST_F(HttpServerTest, F_F29_connections_over_the_limit_are_told_503_and_room_is_given_back) {
  HttpServerOptions options;
  options.connections_max = 2;
  start(options, answer);
  const std::string ask = "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n";
  std::string third;
  beside([&] {
    const RawSocket first(server_->port()), second(server_->port());
    first.send(ask);
    first.receive("GET /1");
    second.send(ask);
    second.receive("GET /1");
    const RawSocket other(server_->port());
    other.send(ask);
    third = other.receive();
  });
  EXPECT_EQ(status_of(third), "HTTP/1.1 503");
  std::string fourth;
  beside([&] {
    while (fourth.find("200") == std::string::npos) {  // the ends of the first two travel
      const RawSocket socket(server_->port());
      socket.send("GET /1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
      fourth = status_of(socket.receive());
    }
  });
  EXPECT_EQ(fourth, "HTTP/1.1 200");
}

TEST_F(HttpServerTest, F_F29_ten_thousand_idle_connections_do_not_slow_the_others) {
  // Both ends of each are in this process; a hard limit of 20,000 takes a few of them away.
  const std::int64_t files = allow_open_files(20'200);
  const auto count = static_cast<std::size_t>(std::min<std::int64_t>(10'000, (files - 200) / 2));
  ASSERT_GE(count, 9'000U) << "raise the hard limit (ulimit -Hn)";
  HttpServerOptions options;
  options.header_deadline = seconds(300);
  start(options, answer);
  std::string got;
  beside([&] {
    std::vector<RawSocket> idle;
    for (std::size_t number = 0; number < count; ++number) idle.emplace_back(server_->port());
    const RawSocket busy(server_->port());
    for (int number = 0; number < 100; ++number) {
      busy.send("GET /1 HTTP/1.1\r\nHost: h\r\n\r\n");
      got += busy.receive("GET /1");
    }
  });
  EXPECT_EQ(count_of(got, "HTTP/1.1 200"), 100u);
}

TEST_F(HttpServerTest, F_F29_who_connects_and_says_nothing_holds_up_no_handshake) {
  start(mutual_tls(), answer);
  std::deque<RawSocket> silent;
  for (int number = 0; number < 400; ++number) silent.emplace_back(server_->port());
  HttpCall request{.url = url("https", "/")};
  request.tls = identity("client");
  request.deadline = seconds(5);  // half of what a silent one is given
  const auto response = call(std::move(request));
  ASSERT_TRUE(response.ok()) << response.error().text();
  EXPECT_EQ(response->status, 200);
}

TEST_F(HttpServerTest, F_B11_events_stream_until_one_side_ends_them) {
  std::shared_ptr<EventStream> events;
  int closed = 0;
  start({}, [&](HttpRequest request, const std::shared_ptr<HttpReply>& reply) {
    events = reply->stream({200, {{"content-type", "text/event-stream"}}, "first;"});
    events->on_closed([&] {
      ++closed;
      loop_.stop();
    });
    EXPECT_TRUE(events->send("second;").ok());
    if (request.path == "/ends") events->close();
  });
  std::string got;
  Result<HttpResponse> end = make_error(Errc::internal, "no answer");
  http_stream(
      loop_, {.url = url("http", "/ends")},
      [&](std::string piece) {
        got += piece;
        return true;
      },
      [&](Result<HttpResponse> result) { end = std::move(result); });
  run();
  if (!end.ok() && end.error().what == "no answer") {
    loop_.post([&] { loop_.stop(); });
    run();
  }
  EXPECT_EQ(got, "first;second;");
  EXPECT_EQ(closed, 1);
  EXPECT_EQ(events->send("x").error().code, Errc::unavailable);

  got.clear();
  http_stream(
      loop_, {.url = url("http", "/endless")},
      [&](std::string piece) {
        got += piece;
        return false;
      },
      [](Result<HttpResponse> result) { EXPECT_TRUE(result.ok()); });
  run();
  EXPECT_EQ(got.substr(0, 6), "first;");
  EXPECT_EQ(closed, 2);
}

TEST_F(HttpServerTest, F_B11_a_stream_to_one_who_does_not_read_is_bounded_and_ended) {
  HttpServerOptions options;
  options.queue_bytes_max = 1 << 20;
  std::shared_ptr<EventStream> events;
  Errc refused = Errc::internal;
  start(options, [&](HttpRequest, const std::shared_ptr<HttpReply>& reply) {
    events = reply->stream({200, {}, ""});
    events->on_closed([&] { loop_.stop(); });
    std::size_t sent = 0;
    while (true) {
      const auto done = events->send(std::string(65'536, 'x'));
      if (!done) {
        refused = done.error().code;
        break;
      }
      ASSERT_LT(sent += 65'536, 64u << 20);
    }
  });
  const RawSocket reader(server_->port());
  reader.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  run();
  EXPECT_EQ(refused, Errc::exhausted);
}

TEST_F(HttpServerTest, F_B11_another_status_of_a_stream_is_a_whole_response) {
  start({}, [](HttpRequest, const std::shared_ptr<HttpReply>& reply) {
    reply->send({404, {}, "none"});
  });
  http_stream(
      loop_, {.url = url("http", "/")},
      [](std::string) {
        ADD_FAILURE();
        return true;
      },
      [&](Result<HttpResponse> result) {
        ASSERT_TRUE(result.ok());
        EXPECT_EQ(result->status, 404);
        EXPECT_EQ(result->body, "none");
        loop_.stop();
      });
  run();
}

TEST_F(HttpServerTest, F_B11_a_server_that_goes_takes_its_connections_along_and_no_handler_runs) {
  std::shared_ptr<HttpReply> reply_kept;
  std::shared_ptr<EventStream> events;
  start({}, [&](HttpRequest request, const std::shared_ptr<HttpReply>& reply) {
    if (request.path == "/events") {
      events = reply->stream({200, {}, ""});
      events->on_closed([events_kept = events] { ADD_FAILURE(); });  // owns itself
    } else {
      reply_kept = reply;
    }
    if (events && reply_kept) loop_.stop();
  });
  const RawSocket first(server_->port()), second(server_->port());
  first.send("GET /events HTTP/1.1\r\nHost: h\r\n\r\n");
  second.send("GET /kept HTTP/1.1\r\nHost: h\r\n\r\n");
  run();
  server_.reset();
  reply_kept->send({200, {}, "too late"});
  EXPECT_EQ(events->send("x").ok() && events->send("y").ok(), true) << "queued for nobody";
  events.reset();
  EXPECT_EQ(second.receive(), "");
  EXPECT_EQ(first.receive().find("too late"), std::string::npos);
}

TEST_F(HttpServerTest, F_B11_what_a_client_cannot_do_is_said) {
  start({}, answer);
  const std::uint16_t port = server_->port();
  EXPECT_EQ(call({.url = "gopher://127.0.0.1/"}).error().code, Errc::invalid);
  EXPECT_EQ(call({.method = "", .url = url("http", "/")}).error().code, Errc::invalid);
  EXPECT_EQ(call({.url = url("http", "/"), .headers = {{"a", "b\r\nc: d"}}}).error().code,
            Errc::invalid);
  EXPECT_EQ(call({.url = url("https", "/"), .tls = {}}).error().code, Errc::unauthenticated);
  HttpServerOptions taken;
  taken.port = port;
  EXPECT_EQ(HttpServer::listen(loop_, taken, answer).error().code, Errc::conflict);
  taken.address = "nowhere";
  EXPECT_EQ(HttpServer::listen(loop_, taken, answer).error().code, Errc::invalid);
  server_.reset();
  EXPECT_EQ(call({.url = "http://127.0.0.1:" + std::to_string(port) + "/"}).error().code,
            Errc::unavailable);
}

TEST_F(HttpServerTest, F_B11_a_server_that_does_not_answer_is_a_timeout) {
  std::shared_ptr<HttpReply> kept;
  start({}, [&](HttpRequest, const std::shared_ptr<HttpReply>& reply) { kept = reply; });
  EXPECT_EQ(call({.url = url("http", "/"), .deadline = milliseconds(60)}).error().code,
            Errc::timeout);
}

}  // namespace
}  // namespace virga
