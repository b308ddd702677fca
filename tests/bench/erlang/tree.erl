%% The footprint's peer: for each VM an OTP supervisor with two gen_servers, the one that owns the record and its lease
%% timer, and the poller. The record is the one of src/records.rs as a term, and comes out of bytes as ours does.
%%
%%   shard (simple_one_for_one) -> vm supervisor (one_for_one) -> owner, poller
%%
%% erl -noshell +P 4000000 -run tree main VMS MILLISECONDS: prints one line of JSON.
-module(tree).
-behaviour(supervisor).
-export([main/1, start_shard/0, start_vm/1, start_owner/1, start_poller/1]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2]).

-define(SHARDS, 64).
-define(INTERVAL, 30000).
-define(CHUNK, 600000).

main([Vms, Round]) ->
    N = list_to_integer(Vms),
    process_flag(trap_exit, true),
    Shards = list_to_tuple([element(2, {ok, _} = start_shard()) || _ <- lists:seq(1, ?SHARDS)]),
    erlang:garbage_collect(),
    Base = resident(),
    BaseTotal = erlang:memory(total),
    start(0, N, Shards),
    timer:sleep(list_to_integer(Round)),
    Running = resident(),
    [erlang:garbage_collect(Pid) || Pid <- processes()],
    %% The allocators give back what is free by and by.
    timer:sleep(3000),
    Collected = resident(),
    io:format("{\"base\": ~b, \"running\": ~b, \"collected\": ~b, \"allocated\": ~b, \"processes\": ~b}~n",
              [Base, Running, Collected, erlang:memory(total) - BaseTotal, length(processes())]),
    halt(0).

start(N, N, _) -> ok;
start(I, N, Shards) ->
    {ok, _} = supervisor:start_child(element(I rem ?SHARDS + 1, Shards), [I]),
    start(I + 1, N, Shards).

start_shard() -> supervisor:start_link(?MODULE, shard).
start_vm(I) -> supervisor:start_link(?MODULE, {vm, I}).
start_owner(I) -> gen_server:start_link(?MODULE, {owner, I}, []).

%% The second child finds the first at its supervisor when it first has something to say.
start_poller(Supervisor) -> gen_server:start_link(?MODULE, {poller, Supervisor}, []).

init(shard) ->
    Child = #{id => vm, start => {?MODULE, start_vm, []}, type => supervisor, shutdown => infinity},
    {ok, {#{strategy => simple_one_for_one, intensity => 1000, period => 1}, [Child]}};
init({vm, I}) ->
    Owner = #{id => owner, start => {?MODULE, start_owner, [I]}},
    Poller = #{id => poller, start => {?MODULE, start_poller, [self()]}},
    {ok, {#{strategy => one_for_one, intensity => 5, period => 60}, [Owner, Poller]}};
init({owner, I}) ->
    erlang:send_after(?CHUNK, self(), tick),
    {ok, load(I)};
init({poller, Supervisor}) ->
    erlang:send_after(rand:uniform(?INTERVAL), self(), probe),
    {ok, {Supervisor, none}}.

handle_call(record, _, Record) -> {reply, Record, Record}.

handle_cast({probed, up}, Record) -> {noreply, Record}.

handle_info(tick, Record) ->
    erlang:send_after(?CHUNK, self(), tick),
    {noreply, Record};
handle_info(probe, {Supervisor, none}) ->
    [Owner] = [Pid || {owner, Pid, _, _} <- supervisor:which_children(Supervisor)],
    handle_info(probe, {Supervisor, Owner});
handle_info(probe, {_, Owner} = State) ->
    gen_server:cast(Owner, {probed, up}),
    erlang:send_after(?INTERVAL, self(), probe),
    {noreply, State}.

%% As if a store had sent it: made in another process, so that this one's heap holds the record and no garbage.
load(I) ->
    {Self, Ref} = {self(), make_ref()},
    spawn(fun() -> Self ! {Ref, binary_to_term(term_to_binary(record(I)))} end),
    receive {Ref, Record} -> Record end.

resident() ->
    {ok, Status} = file:open("/proc/self/status", [read, raw, read_ahead]),
    Kib = resident(Status),
    ok = file:close(Status),
    Kib * 1024.

resident(Status) ->
    {ok, Line} = file:read_line(Status),
    case string:tokens(Line, " \t\n") of
        ["VmRSS:", Kib | _] -> list_to_integer(Kib);
        _ -> resident(Status)
    end.

%% A VM in the middle of an ordinary life.
record(I) ->
    Now = 1800000000000,
    Day = 86400000,
    Created = Now - 20 * Day,
    {vm_record, id(I, 0), <<"bench">>, 40, {present, Created, undefined}, facts(I, Created), policy(),
     {running, {term, Created, Now + 30 * Day, Now - Day, undefined, 1, coming}, active},
     [], [], false, up, {repairs, false, undefined, [], 25000, false},
     {schedule, Now + 6 * 3600000 + I rem 1000, undefined, undefined, undefined, 0, false},
     [backup(I, Days, Now - Days * Day) || Days <- [5, 4, 3, 2, 1]],
     undefined, [], [], 24, [erlang:phash2({I, Message}, 4294967296) * 4294967296 || Message <- lists:seq(1, 16)],
     [], [],
     [{history, Now - Days * Day, What} || {What, Days} <-
         [{<<"vm.created">>, 20}, {<<"lease.created">>, 20}, {<<"backup.completed">>, 5}, {<<"backup.completed">>, 4},
          {<<"lease.extended">>, 4}, {<<"backup.completed">>, 3}, {<<"backup.completed">>, 2},
          {<<"backup.completed">>, 1}]],
     undefined, true, undefined}.

facts(I, Created) ->
    {facts, {Created * 1000, erlang:phash2(I) * 4294967296}, text("vm-~7..0b", [I]), hex(I div 50, 1), hex(I div 50, 2),
     text("compute-~5..0b.example.net", [I div 40]), active, undefined, running, false, Created, Created}.

backup(I, Days, At) ->
    Volumes = [{volume, uuid(I, Salt), Salt =/= 5, 20 bsl 30} || Salt <- [3, 4, 5]],
    Addresses = [text("203.~b.~b.~b", [I div 256 rem 256, I rem 256, Last]) || Last <- [7, 8]],
    {backup, id(I, 10 + Days), scheduled, At, {verified, 60 bsl 30, At}, {inventory, Volumes, Addresses}}.

policy() ->
    {policy, <<"default">>,
     {lease, 2592000000, [604800000, 86400000], 0, 2592000000, 3, 15552000000, backup_and_delete, discovery, 86400000, []},
     false, {health, true, 30000, 5000, 3, 2, guest_agent}, {repair, true, [hard_reboot], 60000, 600000, 600000, 5},
     {backup, 86400000, 14400000, 3, 7, 4, 0, 5, 7776000000}, []}.

id(I, Salt) -> erlang:md5(term_to_binary({I, Salt})).
hex(I, Salt) -> text("~32.16.0b", [binary:decode_unsigned(id(I, Salt))]).
uuid(I, Salt) ->
    <<A:8/binary, B:4/binary, C:4/binary, D:4/binary, E:12/binary>> = hex(I, Salt),
    <<A/binary, "-", B/binary, "-", C/binary, "-", D/binary, "-", E/binary>>.
text(Format, Arguments) -> list_to_binary(io_lib:format(Format, Arguments)).
